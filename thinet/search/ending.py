"""Networks of the found and of the uniform widths, trained from scratch alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from thinet.artifacts.store import save
from thinet.base.errors import ThinetError
from thinet.base.messages import say
from thinet.report.sections.search import Candidate, Trained
from thinet.run.result import MODEL
from thinet.run.setup import Setup
from thinet.run.steps import Done, Step
from thinet.search.checks import UNIFORM
from thinet.search.evolution import uniform
from thinet.training.distilling import Distilling
from thinet.training.fresh import cut_fresh_
from thinet.training.measurement import evaluate_fully
from thinet.training.source import build_network, network_spec
from thinet.widths.space import Genes

if TYPE_CHECKING:
    from thinet.search.work import Work

FOUND = "found"
KEY = "searched"
"""What order and augmentation of the images derive from: the same for all widths."""


@dataclass(frozen=True)
class Ending:
    """What is trained in the end.

    Attributes:
        distilling: What is learnt besides labels.
        train: Whether anything is.
        epochs: None for those of the baseline.
        controls: What else than the found widths: ``uniform``.
    """

    distilling: Distilling
    train: bool
    epochs: int | None
    controls: tuple[str, ...]

    def epochs_of(self, setup: Setup) -> int:
        """How many there are; 0 where nothing is trained."""
        own = setup.source.phase.epochs if self.epochs is None else self.epochs
        return own if self.train else 0


def best_of(work: Work) -> Candidate:
    """The candidate within the budget with the least error; of equal ones the first judged.

    Raises:
        ThinetError: If there is none.
    """
    judged, window = work.session.progress.candidates, work.problem.window
    within = [one for one in judged if one.cost in window]
    if not within:
        raise ThinetError(
            f"none of the {len(judged)} candidates costs between {100 * window.low:.1f} and "
            f"{100 * window.high:.1f} % of the full network: type another target, a larger "
            "search.tolerance, or method.start=search."
        )
    return min(within, key=lambda one: one.error)


def ending_steps(work: Work) -> list[Step]:
    """A step for the found widths, and for each control that the budget allows."""
    ending = work.how.ending
    if not ending.train:
        return []
    names = [FOUND]
    if UNIFORM in ending.controls and uniform(work.problem) is not None:
        names.append(UNIFORM)
    return [Step(f"training of {name} widths", partial(_train, work, name)) for name in names]


def _train(work: Work, name: str, network: nn.Module, folder: Path) -> Done:
    session, ending = work.session, work.how.ending
    setup, engine, space = session.setup, session.engine, work.task.space
    genes = best_of(work).genes if name == FOUND else uniform(work.problem)
    assert genes is not None
    counts = space.counts(genes)
    slim = cut_fresh_(build_network(setup).cpu(), counts, torch.zeros(1, *setup.data.input_shape))
    phase = replace(setup.source.phase, epochs=ending.epochs_of(setup))
    say(f"{name} widths: training for {phase.epochs} epochs from random weights")
    learning, title = work.teaching(), f"{name} widths"
    learning.fit(engine, slim, [phase], setup.source.training, KEY, folder / "fit", title)
    found = evaluate_fully(setup, engine, slim)
    if session.writes:
        kept = _kept(work, genes)
        spec = network_spec(setup, kept, metrics=found.figures())
        save(slim, session.folder / (MODEL if name == FOUND else name), spec)
    figures = {f"top1_{name}": found.val_top1}
    note = partial(session.progress.trained.append, Trained(name, found))
    return Done(network, figures, phase.epochs, _said(name, found.top1), note)


def _said(name: str, top1: float | None) -> str:
    return f"{name} widths: trained" + ("" if top1 is None else f", test top-1 {100 * top1:.2f} %")


def _kept(work: Work, genes: Genes) -> dict[str, Sequence[int]]:
    """Filters of each layer that stay: the first ones, which in a fresh network are any."""
    groups = work.task.graph.groups
    return {
        layer.name: layer.kept(range(count))
        for name, count in work.task.space.counts(genes).items()
        for layer in groups[name].layers
    }

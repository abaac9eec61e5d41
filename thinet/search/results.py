"""What a search leaves in ``result.json``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from thinet.report.sections.search import KEY, SearchDetails, WidthRow
from thinet.search.ending import best_of
from thinet.search.evolution import uniform
from thinet.search.fitness import standard_error
from thinet.search.front import pareto_front
from thinet.search.settings import NSGA2, PROXY, SEARCH, TRAINING
from thinet.search.stored import layers_of, read_search

if TYPE_CHECKING:
    from thinet.search.work import Work

JUDGED = ("proxy", "generations", "images", "standard_error", "calibration", "hypernet_parameters")
"""What is told of the run that judged the candidates."""


def details_of(work: Work) -> dict[str, object]:
    """What only a search knows, and what was learnt from a teacher in the end."""
    how, setup, progress = work.how, work.session.setup, work.session.progress
    window, grounds, epochs = work.problem.window, work.grounds, how.ending.epochs_of(setup)
    candidates = tuple(progress.candidates)
    best = best_of(work)
    found = SearchDetails(
        proxy=how.proxy.name,
        target=str(how.target),
        kind=how.target.kind,
        low=window.low,
        high=window.high,
        generations=how.evolution.generations,
        scales=work.task.space.scales,
        images=grounds.images,
        standard_error=standard_error(grounds.images),
        calibration=grounds.calibration,
        hypernet_parameters=work.plan.hypernet,
        seconds=_seconds(work),
        widths=_widths(work),
        candidates=candidates,
        uniform=progress.uniform,
        best=candidates.index(best),
        front=_front(work),
        trained=tuple(progress.trained),
        epochs=epochs,
        folder=str(work.session.folder),
    )
    if how.start == TRAINING and how.of is not None:  # another run has judged
        theirs = read_search(how.of, work.task)
        found = replace(found, **{name: getattr(theirs, name) for name in JUDGED})
    return {KEY: found, **how.ending.distilling.details(setup, epochs or None)}


def _front(work: Work) -> tuple[int, ...]:
    """Candidates that no other is better than in error and cost, where both were searched."""
    if work.how.searching.algorithm != NSGA2:
        return ()
    judged = work.session.progress.candidates
    return tuple(pareto_front([(one.error, one.cost) for one in judged]))


def _seconds(work: Work) -> dict[str, float]:
    """What each part took, by its name."""
    found = {PROXY: 0.0, SEARCH: 0.0, TRAINING: 0.0}
    for step in work.session.state.steps:
        part = SEARCH
        if step.name == work.how.proxy.title:
            part = PROXY
        elif step.epochs:
            part = TRAINING
        found[part] += step.seconds
    return {name: seconds for name, seconds in found.items() if seconds}


def _widths(work: Work) -> tuple[WidthRow, ...]:
    space, even = work.task.space, uniform(work.problem)
    found = space.widths(best_of(work).genes)
    others = space.widths(space.bottom if even is None else even)
    rows = zip(layers_of(work.task), space.units, found, others, strict=True)
    return tuple(WidthRow(*row) for row in rows)

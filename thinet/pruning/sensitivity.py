"""How much accuracy each layer alone costs at several ratios, and which ratios that suggests."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thinet.artifacts.names import WEIGHTS
from thinet.artifacts.store import save
from thinet.base.errors import ThinetError
from thinet.base.messages import say
from thinet.base.seeding import derive_seed
from thinet.engine.logging.sending import log_figures
from thinet.engine.progress import clock
from thinet.engine.subset import SubsetEvaluation
from thinet.pruning.calibrate import calibrate
from thinet.pruning.criteria import Candidates, Criterion
from thinet.pruning.group import Calibration, prune_group_
from thinet.pruning.plan import check_statistics, on_paper
from thinet.pruning.statistics import Evidence, Statistic
from thinet.pruning.suggestion import budget, recalibrated_, suggest, widths_within
from thinet.report.sensitivity import write_sensitivity
from thinet.run.session import Run
from thinet.run.setup import Job
from thinet.surgery import ChannelGraph, Group, check_weights, rounded, trace
from thinet.training.source import (
    baseline_metrics,
    network_spec,
    prepare_baseline,
    restore_network,
)
from thinet.widths.choose import choose_groups

CUTS = False
MODEL = "model"


def check(job: Job) -> None:
    """Say what will be measured; refuse layers or a budget that make no sense.

    Raises:
        ThinetError: By what refuses.
    """
    if job.data.num_classes is None:
        job.data.check()
    network, images = on_paper(job)
    graph = trace(network, images[:1])
    names, _ = choose_groups(network, graph, job.request, images)
    check_statistics(network, graph, job, names)
    ratios = job.config["method"]["ratios"]
    try:
        widths_within(job, network, graph, names)
    except ThinetError as error:
        raise ThinetError(str(error).replace("target", "method.budget")) from error
    say(
        f"sensitivity: {len(names)} layers or groups at {len(ratios)} ratios each, one at a time, "
        f"without fine-tuning; then ratios for {budget(job)}"
    )


def sensitivity(run: Run) -> dict[str, Any]:
    """Run the method; layers and ratios that an earlier attempt measured are not repeated.

    Returns:
        See :func:`thinet.pruning.method.prune`; ``sensitivity`` holds the table, the suggestion and
        how it does on validation images beside a uniform ratio.
    """
    network = _start(run)
    work = _Work.begin(run, network)
    for number, name in enumerate(work.names):
        _measure_layer(work, name, number)
    found = (
        {"folder": str(run.folder)}
        | _table(work)
        | suggest(
            run, work.network, work.graph, work.names, work.calibration, work.probe, work.full
        )
    )
    if run.writes:
        write_sensitivity(found, run.folder)
    run.engine.barrier()
    return {
        "ratio": None,
        "schedule": None,
        "baseline": run.state.baseline,
        "slim": None,
        "before_finetuning": None,
        "stages": [],
        "layers": [],
        "sensitivity": found,
    }


def _start(run: Run) -> nn.Module:
    """The full network, as the first attempt had it."""
    run.begin()
    if run.state.baseline is not None:
        say(f"resuming after {len(run.state.cells)} measurements")
        return restore_network(run.job, run.engine, run.folder / MODEL / WEIGHTS)
    network = prepare_baseline(run.job, run.engine, run.folder)
    run.state.baseline = baseline_metrics(run.job, run.engine, network)
    if run.writes:
        save(network, run.folder / MODEL, network_spec(run.job, metrics=run.state.baseline))
    run.save_state()
    return network


@dataclass
class _Work:
    """What all measurements share.

    Attributes:
        run: The run.
        network: The full network.
        graph: Its trace.
        names: The groups to cut, one at a time.
        calibration: The images of the statistics.
        probe: The images of the accuracies.
        full: The figures of the full network, its BatchNorm treated as that of the variants.
        recalibrated: Whether there are BatchNorm statistics that are re-estimated after a cut.
        began: When this attempt began, and how many cells had been measured by then.
    """

    run: Run
    network: nn.Module
    graph: ChannelGraph
    names: list[str]
    calibration: Calibration
    probe: SubsetEvaluation
    full: dict[str, float]
    recalibrated: bool
    began: tuple[float, int]

    @classmethod
    def begin(cls, run: Run, network: nn.Module) -> _Work:
        job, engine = run.job, run.engine
        network.to(engine.device)
        calibration = calibrate(engine, job.sampling, job.batch_size)
        few = torch.stack([calibration.images[0], calibration.images[-1]]).to(engine.device)
        check_weights(network)
        graph = trace(network, few[:1])
        names, _ = engine.decide(lambda: choose_groups(network, graph, job.request, few))
        probe = SubsetEvaluation(engine, job.config["method"]["images"])
        full = copy.deepcopy(network)
        recalibrated = recalibrated_(full, job, calibration)
        probe.set_reference(full)
        found = probe.measure(full)
        say(f"sensitivity: full network {100 * found['top1']:.2f} % on {probe.images} images")
        return cls(
            run, network, graph, names, calibration, probe, found, recalibrated,
            (time.monotonic(), len(run.state.cells)),
        )  # fmt: skip

    @property
    def ratios(self) -> list[float]:
        """From the mildest cut to the hardest."""
        return sorted(self.run.job.config["method"]["ratios"], reverse=True)


def _measure_layer(work: _Work, name: str, number: int) -> None:
    """Measure what is missing of one group, with statistics collected once for all ratios."""
    state, group = work.run.state, work.graph.groups[name]
    known = {cell["ratio"]: cell for cell in state.cells if cell["layer"] == name}
    missing = [ratio for ratio in work.ratios if ratio not in known]
    if not missing:
        return
    job = work.run.job
    given = _Given.collect_for(work, group)
    order = job.criterion.rank(
        Candidates.of(work.network, group),
        given.evidence[name],
        derive_seed(job.sampling.seed, "select", name),
    )
    for ratio in missing:
        kept = rounded(group, ratio, job.request.widths.round_to)
        same = next((cell for cell in known.values() if cell["kept"] == kept), None)
        measured = same or _measure_cut(work, name, kept, _InOrder(order), given)
        cell = {
            "layer": name,
            "ratio": ratio,
            "kept": kept,
            "units": group.units,
            **{key: measured[key] for key in ("top1", "top5", "divergence")},
        }
        known[ratio] = cell
        state.cells.append(cell)
        work.run.save_state()
        curves = {f"sensitivity_{key}/{name}": float(cell[key]) for key in ("top1", "divergence")}
        log_figures(work.run.engine.loggers, curves, step=round(100 * ratio))
    _tell(work, name, number, known)


def _measure_cut(
    work: _Work, name: str, kept: int, order: _InOrder, given: _Given
) -> dict[str, float]:
    """The figures of a copy in which one group alone is cut."""
    if kept == work.graph.groups[name].units:
        return work.full
    job, slim = work.run.job, copy.deepcopy(work.network)
    prune_group_(slim, work.graph, name, kept, order, job.reconstruction, given)
    recalibrated_(slim, job, work.calibration)
    return work.probe.measure(slim)


@dataclass(frozen=True)
class _InOrder(Criterion):
    """A ranking that is known already."""

    order: Tensor

    def rank(self, candidates: Candidates, evidence: Evidence, seed: int) -> Tensor:
        return self.order


@dataclass(frozen=True)
class _Given(Calibration):
    """Calibration images whose statistics have been collected already, on the full network."""

    evidence: Mapping[str, Evidence] = field(default_factory=dict)

    @classmethod
    def collect_for(cls, work: _Work, group: Group) -> _Given:
        job = work.run.job
        needs = {*job.criterion.needs, *job.reconstruction.needs}
        evidence = work.calibration.collect(work.network, [group], needs)
        return cls(**vars(work.calibration), evidence=evidence)

    def collect(
        self, network: nn.Module, groups: Sequence[Group], needs: Iterable[type[Statistic[Any]]]
    ) -> dict[str, Evidence]:
        return dict(self.evidence)


def _tell(work: _Work, name: str, number: int, known: Mapping[float, Mapping[str, Any]]) -> None:
    """One line a layer, with the time that the others will take at this pace."""
    began, before = work.began
    done = len(work.run.state.cells)
    left = (time.monotonic() - began) / (done - before)
    left *= len(work.names) * len(work.ratios) - done
    figures = "  ".join(
        f"{ratio:g}: {100 * known[ratio]['top1']:.2f} %" for ratio in work.ratios if ratio in known
    )
    say(f"layer {number + 1}/{len(work.names)} {name}: {figures}; {clock(left)} left")


def _table(work: _Work) -> dict[str, Any]:
    """All measurements, layers in order of execution, ratios falling."""
    place = {name: number for number, name in enumerate(work.names)}
    return {
        "ratios": work.ratios,
        "images": work.probe.images,
        "recalibrated": work.recalibrated,
        "full": work.full,
        "cells": sorted(
            work.run.state.cells, key=lambda cell: (place[cell["layer"]], -cell["ratio"])
        ),
    }

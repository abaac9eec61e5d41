"""How much accuracy each layer alone costs at several ratios, and which ratios that suggests."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thinet.artifacts.names import WEIGHTS
from thinet.artifacts.store import save
from thinet.base.messages import say
from thinet.engine.logging.sending import log_figures
from thinet.engine.progress import clock
from thinet.engine.subset import SubsetEvaluation
from thinet.pruning.calibrate import calibrate
from thinet.pruning.checks import read_budget
from thinet.pruning.group import Calibration, Ranked, cut_group_, rank_groups
from thinet.pruning.plan import check_statistics
from thinet.pruning.settings import Choosing
from thinet.pruning.sources import calibrating
from thinet.pruning.suggestion import Trials, recalibrated_, suggest
from thinet.report.sections.sensitivity import Cell, Figures, SensitivityDetails
from thinet.run.method import Method
from thinet.run.result import MODEL, Outcome
from thinet.run.session import Session
from thinet.run.settings import Settings
from thinet.run.setup import Setup
from thinet.run.steps import Done, Keeping, Step, run_steps
from thinet.surgery import ChannelGraph, check_weights, trace
from thinet.training.images import ImageSource, find_source
from thinet.training.measurement import measure_baseline
from thinet.training.source import network_spec, on_paper, prepare_network
from thinet.training.start import restore
from thinet.widths.choose import Request, choose_groups
from thinet.widths.resolve import rounded
from thinet.widths.target import Target, Widths


@dataclass
class Progress:
    """What has been measured: a row for each layer and ratio."""

    cells: list[Cell] = field(default_factory=list)


@dataclass(frozen=True)
class Sensitivity(Method[Progress, int]):
    """Cut each layer alone to several ratios, and suggest ratios for all of them.

    Attributes:
        choosing: How filters are chosen, and what replaces them.
        request: The layers, and to which multiples widths are rounded.
        ratios: Fractions kept.
        budget: What the suggestion may leave.
        images: At most so many validation images; None for all.
        trials: Corrections of the suggestion that are tried.
        source: Of the calibration images.
    """

    choosing: Choosing
    request: Request
    ratios: tuple[float, ...]
    budget: Target
    images: int | None
    trials: int
    source: ImageSource
    remembers = Progress

    @classmethod
    def configure(cls, settings: Settings) -> Sensitivity:
        """From the groups and keys that its yaml names."""
        paper = tuple(settings["model"].get("paper_layers") or ())
        budget = read_budget(settings["method.budget"])
        return cls(
            choosing=Choosing.read(settings),
            request=Request(
                settings["layers"], widths=Widths(budget, round_to=settings["round_to"]),
                paper=paper,
            ),
            ratios=tuple(sorted(settings["method.ratios"], reverse=True)),
            budget=budget,
            images=settings["method.images"],
            trials=settings["method.trials"],
            source=find_source(settings, settings["calibration.source"]),
        )  # fmt: skip

    def plan(self, setup: Setup, progress: Progress) -> int:
        """How many layers will be measured; refuse layers or a budget that make no sense."""
        network, images = on_paper(setup)
        graph = trace(network, images[:1])
        names, _ = choose_groups(network, graph, self.request, images)
        self.source.check(setup, network, images)
        check_statistics(network, graph, self.choosing, names)
        self._trials(setup).widths_within(network, graph, names)
        return len(names)

    def show(self, plan: int) -> None:
        """Say what will be measured."""
        say(
            f"sensitivity: {plan} layers or groups at {len(self.ratios)} ratios each, one at a "
            f"time, without fine-tuning; then ratios for {self.budget}"
        )

    def _trials(self, setup: Setup) -> Trials:
        return Trials(self.choosing, self.budget, self.request.widths.round_to, self.trials, setup)

    def run(self, session: Session[Progress], plan: int) -> Outcome:
        """Measure; layers and ratios that an earlier attempt measured are not repeated."""
        network = _start(session)
        work = _begin(self, session, network)
        steps = [Step(name, partial(work.measure_layer, name)) for name in work.names]
        run_steps(session, steps, network, Keeping(network=False))
        found = suggest(
            self._trials(session.setup), session.engine, work.network, work.graph, work.names,
            work.calibration, work.probe, work.full, session.progress.cells,
        )  # fmt: skip
        details = SensitivityDetails(
            folder=str(session.folder),
            ratios=self.ratios,
            images=work.probe.images,
            recalibrated=work.recalibrated,
            full=work.full,
            cells=work.table(),
            budget=str(self.budget),
            suggestion=found.ratios,
            way=found.way,
            trial=found.trial,
        )
        session.engine.barrier()
        return Outcome(session.reference, None, {"sensitivity": details})


def _start(session: Session[Progress]) -> nn.Module:
    """The full network, as the first attempt had it: no step changes it."""
    session.begin()
    setup, engine, model = session.setup, session.engine, session.folder / MODEL
    if session.state.reference is not None:
        say(f"resuming after {len(session.progress.cells)} measurements")
        return restore(session, model / WEIGHTS)
    network = prepare_network(setup, engine, session.folder)
    session.state.reference = measure_baseline(setup, engine, network)
    if session.writes:
        save(network, model, network_spec(setup, metrics=session.reference.figures()))
    session.save()
    return network


def _begin(method: Sensitivity, session: Session[Progress], network: nn.Module) -> _Work:
    engine, choosing = session.engine, method.choosing
    supply = calibrating(method.source, session.setup, engine, network)
    calibration = calibrate(engine, supply, choosing.sampling, choosing.batch_size)
    network.to(engine.device)
    few = torch.stack([calibration.images[0], calibration.images[-1]]).to(engine.device)
    check_weights(network)
    graph = trace(network, few[:1])
    names, _ = engine.decide(lambda: choose_groups(network, graph, method.request, few))
    probe = SubsetEvaluation(engine, method.images)
    full = copy.deepcopy(network)
    recalibrated = recalibrated_(full, choosing, calibration)
    probe.set_reference(full)
    found = Figures(**probe.measure(full))
    say(f"sensitivity: full network {100 * found.top1:.2f} % on {probe.images} images")
    return _Work(
        method, session, network, graph, names, calibration, probe, found, recalibrated,
        (time.monotonic(), len(session.progress.cells)),
    )  # fmt: skip


@dataclass(frozen=True)
class _Work:
    """What all measurements share.

    Attributes:
        method: Its settings.
        session: Of the run.
        network: The full network.
        graph: Its trace.
        names: The groups to cut, one at a time.
        calibration: The images of the statistics.
        probe: The images of the accuracies.
        full: The figures of the full network, its BatchNorm treated as that of the variants.
        recalibrated: Whether there are BatchNorm statistics that are re-estimated after a cut.
        began: When this attempt began, and how many cells had been measured by then.
    """

    method: Sensitivity
    session: Session[Progress]
    network: nn.Module
    graph: ChannelGraph
    names: list[str]
    calibration: Calibration
    probe: SubsetEvaluation
    full: Figures
    recalibrated: bool
    began: tuple[float, int]

    def measure_layer(self, name: str, network: nn.Module, folder: Path) -> Done:
        """Measure what is missing of one group, with statistics collected once for all ratios."""
        cells = self.session.progress.cells
        known = {cell.ratio: cell for cell in cells if cell.layer == name}
        missing = [ratio for ratio in self.method.ratios if ratio not in known]
        if not missing:
            return Done(network)
        choosing, group = self.method.choosing, self.graph.groups[name]
        ranked = rank_groups(
            network, [group], choosing.criterion, choosing.reconstruction.needs, self.calibration
        )[name]
        for ratio in missing:
            kept = rounded(group, ratio, self.method.request.widths.round_to)
            same = next((cell for cell in known.values() if cell.kept == kept), None)
            found: Any = same or self._measure_cut(name, kept, ranked)
            cell = Cell(name, ratio, kept, group.units, found.top1, found.top5, found.divergence)
            known[ratio] = cell
            cells.append(cell)
            self.session.save()
            self._log(cell)
        return Done(network, said=self._tell(name, known))

    def _log(self, cell: Cell) -> None:
        """A point of the layer's curves, over the percentage of its filters kept."""
        figures = {"top1": cell.top1, "divergence": cell.divergence}
        named = {f"sensitivity_{key}/{cell.layer}": value for key, value in figures.items()}
        log_figures(self.session.engine.loggers, named, round(100 * cell.ratio))

    def _measure_cut(self, name: str, kept: int, ranked: Ranked) -> Figures:
        """The figures of a copy in which one group alone is cut."""
        if kept == self.graph.groups[name].units:
            return self.full
        choosing, slim = self.method.choosing, copy.deepcopy(self.network)
        cut_group_(slim, self.graph, name, kept, ranked, choosing.reconstruction)
        recalibrated_(slim, choosing, self.calibration)
        return Figures(**self.probe.measure(slim))

    def _tell(self, name: str, known: Mapping[float, Cell]) -> str:
        """One line a layer, with the time that the others will take at this pace."""
        began, before = self.began
        done, ratios = len(self.session.progress.cells), self.method.ratios
        left = (time.monotonic() - began) / (done - before)
        left *= len(self.names) * len(ratios) - done
        figures = "  ".join(
            f"{ratio:g}: {100 * known[ratio].top1:.2f} %" for ratio in ratios if ratio in known
        )
        number = self.names.index(name) + 1
        return f"layer {number}/{len(self.names)} {name}: {figures}; {clock(left)} left"

    def table(self) -> tuple[Cell, ...]:
        """All measurements, layers in order of execution, ratios falling."""
        place = {name: number for number, name in enumerate(self.names)}
        cells = self.session.progress.cells
        return tuple(sorted(cells, key=lambda cell: (place[cell.layer], -cell.ratio)))

"""Train the slim network from random weights: what are the pruned network's weights worth?

The network has the widths that ``method=prune`` would leave with the same ratio or target, and it
gets as many epochs as the pruned network gets in all, unless ``method.epochs`` says otherwise
(``scratch-E`` of Liu et al. 2019, Rethinking the Value of Network Pruning; their ``scratch-B`` gets
as many FLOPs instead, for half the FLOPs twice the epochs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thinet.artifacts.names import saved_folder
from thinet.artifacts.store import Spec, save
from thinet.base.errors import ThinetError
from thinet.base.messages import say
from thinet.engine.phases import Phase
from thinet.pruning.plan import Plan, make_plan, needs_network, show_plan
from thinet.pruning.settings import Finetuning, read_request
from thinet.report.sections.pruning import LayerRow, PruningDetails
from thinet.run.method import Method
from thinet.run.result import MODEL, Measurement, Outcome
from thinet.run.session import Session
from thinet.run.settings import Settings
from thinet.run.setup import Setup
from thinet.run.steps import Done, Keeping, Step, last_good, run_steps
from thinet.training.distilling import Distilling
from thinet.training.fresh import cut_fresh_
from thinet.training.measurement import evaluate_fully, measure, measure_baseline
from thinet.training.source import build_network, network_spec, prepare_network
from thinet.training.start import restore
from thinet.widths.choose import Request


@dataclass
class Progress:
    """Nothing: there is one step."""


@dataclass(frozen=True)
class Scratch(Method[Progress, Plan]):
    """Train a network of the pruned network's widths from random weights.

    Attributes:
        request: Layers, ratios and budget.
        finetuning: Of the pruned network, whose epochs this one gets as well.
        schedule: Of the pruned network.
        distilling: What is learnt besides labels: from the full network, trained for it, if nobody
            else is named.
        epochs: How many to train for; None for as many as the pruned network gets in all.
    """

    request: Request
    finetuning: Finetuning
    schedule: str
    distilling: Distilling
    epochs: int | None = None
    remembers = Progress

    @classmethod
    def configure(cls, settings: Settings) -> Scratch:
        """From the groups and keys that its yaml names."""
        return cls(
            read_request(settings), Finetuning.read(settings), settings["schedule.name"],
            Distilling.read(settings), settings["method.epochs"],
        )  # fmt: skip

    def plan(self, setup: Setup, progress: Progress) -> Plan:
        """The plan of the pruned network.

        Raises:
            ThinetError: If its widths depend on a trained network, or a slim network is given.
        """
        if needs_network(self.request):
            raise ThinetError(
                "method=scratch cannot find widths by error or latency, which take a trained "
                "network: give the widths of a finished run with ratio=@outputs/<name>, or a plain "
                "ratio."
            )
        weights = setup.source.weights
        if saved_folder(weights) is not None:
            raise ThinetError(
                f"method=scratch trains from random weights, but model.weights={weights} is a "
                "saved network: for its widths type ratio=@<its run folder> model.weights=none."
            )
        self.distilling.check(setup, own=True)
        return make_plan(setup, self.request, self.schedule, self.finetuning)

    def show(self, plan: Plan) -> None:
        """Print it."""
        show_plan(plan)

    def phase(self, setup: Setup, plan: Plan) -> Phase:
        """The baseline's phase, with as many epochs as baseline and fine-tuning take together."""
        own = setup.source.phase
        everything = own.epochs + sum(stage.epochs for stage in plan.stages)
        return replace(own, epochs=everything if self.epochs is None else self.epochs)

    def run(self, session: Session[Progress], plan: Plan) -> Outcome:
        """Train it; the reference has costs but no accuracy, since it is not trained."""
        session.begin()
        setup, engine = session.setup, session.engine
        full = build_network(setup)
        teacher = None
        if self.distilling.needs_teacher and setup.teacher is None:
            teacher = prepare_network(setup, engine, session.folder, "teacher")
            session.state.reference = measure_baseline(setup, engine, teacher)
        else:
            session.state.reference = measure(setup, engine, full)
        learning = self.distilling.begin(setup, engine, session.folder, teacher)
        if session.state.steps:
            network = restore(session, last_good(session))
        else:
            image = torch.zeros(1, *setup.data.input_shape)
            network = cut_fresh_(full.cpu(), plan.counts, image)
        rows = tuple(_row(asdict(row)) for row in plan.rows)
        phase = self.phase(setup, plan)

        def train(network: nn.Module, folder: Path) -> Done:
            say(f"scratch: training the slim network for {phase.epochs} epochs from random weights")
            found = learning.fit(
                engine, network, [phase], setup.source.training, "scratch", folder / "fit"
            )
            return Done(network, {"top1": found.top1, "top5": found.top5}, phase.epochs)

        network = run_steps(session, [Step("scratch", train)], network, Keeping())
        model = evaluate_fully(setup, engine, network)
        if session.writes:
            save(network, session.folder / MODEL, _spec(setup, rows, model))
        engine.barrier()
        digests = tuple(engine.digests(network))
        details = {"pruning": PruningDetails(rows), **self.distilling.details(setup)}
        return Outcome(session.reference, model, details, digests)


def _spec(setup: Setup, rows: tuple[LayerRow, ...], model: Measurement) -> Spec:
    kept = {row.layer: row.kept for row in rows}
    return network_spec(setup, kept, metrics=model.figures())


def _row(planned: Mapping[str, Any]) -> LayerRow:
    return LayerRow(
        stage=0, **planned, kept=tuple(range(planned["filters_after"])),
        rows=None, error=None, error_corrected=None,
    )  # fmt: skip

"""Prune stage by stage: choose, cut, correct, fine-tune, next; then test and save."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn

from thinet.base.messages import say
from thinet.pruning.alternation import Progress, Pruning
from thinet.pruning.find_widths import find_counts
from thinet.pruning.plan import (
    Plan,
    check_budget,
    make_plan,
    needs_network,
    show_plan,
    try_stages,
)
from thinet.pruning.settings import Choosing, Finetuning, read_request
from thinet.pruning.sources import Sources, Supplies, calibrating
from thinet.run.method import Method, Trained
from thinet.run.result import Outcome
from thinet.run.session import Session
from thinet.run.settings import Settings
from thinet.run.setup import Setup
from thinet.run.steps import BASELINE
from thinet.training.distilling import Distilling
from thinet.training.images import Fitting
from thinet.training.learning import Learning
from thinet.training.start import restore, start
from thinet.widths.choose import Request


@dataclass(frozen=True)
class Prune(Method[Progress, Plan | None]):
    """Alternate cuts and fine-tuning.

    Attributes:
        request: Layers, ratios and budget.
        choosing: How filters are chosen, and what replaces them.
        finetuning: Between the cuts, and after the last.
        schedule: What is cut between two fine-tunings.
        distilling: What fine-tuning learns from besides labels: from the network before it is cut,
            if nobody else is named.
        sources: Of the images.
    """

    request: Request
    choosing: Choosing
    finetuning: Finetuning
    schedule: str
    distilling: Distilling
    sources: Sources
    remembers = Progress

    @classmethod
    def configure(cls, settings: Settings) -> Prune:
        """From the groups and keys that its yaml names."""
        return cls(
            read_request(settings), Choosing.read(settings), Finetuning.read(settings),
            settings["schedule.name"], Distilling.read(settings), Sources.read(settings),
        )  # fmt: skip

    def without_images(self) -> str | None:
        """It can, if both sources draw their own."""
        if self.sources.calibration.is_drawn and self.sources.finetuning.is_drawn:
            return None
        return (
            "method=prune looks at images, and dataset=none has none: type calibration.source="
            "generated finetune.source=generated, or a data set, for example dataset=digits"
        )

    def plan(self, setup: Setup, progress: Progress) -> Plan | None:
        """The plan; None if it takes the trained network to make it."""
        self.distilling.check(setup, own=True, labels=not self.sources.finetuning.is_drawn)
        self.sources.check(setup)
        if progress.counts is None and needs_network(self.request):
            check_budget(setup, self.request)
            return None
        return self._plan(setup, progress.counts)

    def _plan(self, setup: Setup, counts: dict[str, int] | None) -> Plan:
        return make_plan(setup, self.request, self.schedule, self.finetuning, self.choosing, counts)

    def show(self, plan: Plan | None) -> None:
        """Print it, if there is one."""
        if plan is not None:
            show_plan(plan)

    def preview(self, setup: Setup, trained: Trained) -> None:
        """Print the plan, after the baseline's training where it depends on that."""
        plan = self.plan(setup, Progress())
        if plan is None:
            say("plan: it depends on the trained network, so the baseline comes first")
            engine, network = trained()
            images = calibrating(self.sources.calibration, setup, engine, network)
            counts = find_counts(self.request, self.choosing, engine, images, network)
            plan = self._plan(setup, counts)
        self.show(plan)

    def run(self, session: Session[Progress], plan: Plan | None) -> Outcome:
        """Prune; finished stages of an earlier attempt are not repeated."""
        network = start(session, None if plan is None else len(plan.stages))
        supplies = None
        if plan is None:
            supplies = self._begin(session)
            plan = self._find_plan(session, supplies, network)
        left = plan.stages[len(session.state.steps) :]
        examples = self.sources.examples(session.setup)
        session.engine.decide(lambda: try_stages(network, left, examples))
        # After the last stage the teacher is gone, and nothing is left to learn.
        learning: Fitting = Learning()
        if left:
            supplies = supplies or self._begin(session)
            learning = supplies.finetuning.fitting(self.distilling.begin_after(session))
        return Pruning(
            self.choosing, self.finetuning.training, session, plan, learning, self.distilling,
            supplies, self.sources.are_drawn,
        ).run(network)  # fmt: skip

    def _begin(self, session: Session[Progress]) -> Supplies:
        """Make the images ready, and count the steps that this has taken."""
        progress = session.progress
        uncut = partial(restore, session, session.folder / BASELINE)
        supplies = self.sources.begin(session, uncut, progress.drawn)
        if self.sources.are_drawn and not progress.drawn:
            progress.drawn = True
            session.save()
        return supplies

    def _find_plan(
        self, session: Session[Progress], supplies: Supplies, network: nn.Module
    ) -> Plan:
        progress = session.progress
        if progress.counts is None:
            images = supplies.calibration
            counts = find_counts(self.request, self.choosing, session.engine, images, network)
            progress.counts = counts
            session.save()
        plan = self._plan(session.setup, progress.counts)
        if session.writes:
            show_plan(plan)
        return plan

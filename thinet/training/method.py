"""Train (or load) the full network and test it."""

from __future__ import annotations

from dataclasses import dataclass

from thinet.artifacts.store import save
from thinet.base.errors import ThinetError
from thinet.metrics import Cost, cost
from thinet.report.terminal import print_costs
from thinet.run.method import Method
from thinet.run.result import MODEL, Outcome
from thinet.run.session import Session
from thinet.run.settings import Settings
from thinet.run.setup import Setup
from thinet.surgery import check_trainable
from thinet.training.distilling import Distilling
from thinet.training.measurement import evaluate_fully, measure_baseline
from thinet.training.source import (
    network_spec,
    on_paper,
    prepare_network,
)
from thinet.training.student import train_own


@dataclass
class Progress:
    """Nothing: the training itself resumes, and is kept for other runs when it has ended."""


@dataclass(frozen=True)
class Train(Method[Progress, Cost]):
    """Train (or load) the full network and test it.

    What is trained by labels alone is kept for other runs, as their baseline; what learns from a
    teacher, or in batches of another kind, is this run's own.

    Attributes:
        distilling: What is learnt besides labels, and in which batches.
    """

    distilling: Distilling
    remembers = Progress

    @classmethod
    def configure(cls, settings: Settings) -> Train:
        """From the groups that its yaml names."""
        return cls(Distilling.read(settings))

    def plan(self, setup: Setup, progress: Progress) -> Cost:
        """What the network costs.

        Raises:
            ThinetError: If it cannot learn as it is told to, or nothing is to be trained.
        """
        self.distilling.check(setup)
        nothing = not setup.source.phase.epochs or setup.source.train == "never"
        if nothing and not self.distilling.is_usual:
            raise ThinetError(
                "method=train with a teacher or batches by class trains by the recipe of baseline, "
                "which trains nothing: type for example baseline.train=auto baseline.epochs=8."
            )
        network, images = on_paper(setup)
        if not self.distilling.is_usual:
            check_trainable(network)
        return cost(network, tuple(images.shape[1:]))

    def show(self, plan: Cost) -> None:
        """Print the costs."""
        print_costs(plan)

    def run(self, session: Session[Progress], plan: Cost) -> Outcome:
        """Train it, or take up the training of an earlier attempt."""
        session.begin()
        setup, engine = session.setup, session.engine
        if self.distilling.is_usual:
            network = prepare_network(setup, engine, session.folder)
            found = measure_baseline(setup, engine, network)
        else:
            learning = self.distilling.begin(setup, engine, session.folder)
            network = train_own(session, learning, "training", "model")
            found = evaluate_fully(setup, engine, network)
        session.state.reference = found
        if session.writes:
            spec = network_spec(setup, metrics=found.figures())
            save(network, session.folder / MODEL, spec)
        session.save()
        details = self.distilling.details(setup)
        whose = "baseline" if self.distilling.is_usual else "model"
        return Outcome(found, None, details, tuple(engine.digests(network)), whose)

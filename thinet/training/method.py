"""Train (or load) the full network and test it."""

from __future__ import annotations

from dataclasses import dataclass

from thinet.artifacts.store import save
from thinet.metrics import Cost, cost
from thinet.report.terminal import print_costs
from thinet.run.method import Method
from thinet.run.result import MODEL, Outcome
from thinet.run.session import Session
from thinet.run.settings import Settings
from thinet.run.setup import Setup
from thinet.training.measurement import measure_baseline
from thinet.training.source import network_spec, on_paper, prepare_network


@dataclass
class Progress:
    """Nothing: the training itself resumes, and is kept for other runs when it has ended."""


@dataclass(frozen=True)
class Train(Method[Progress, Cost]):
    """Train (or load) the full network and test it."""

    remembers = Progress

    @classmethod
    def configure(cls, settings: Settings) -> Train:
        """It has no settings of its own."""
        return cls()

    def plan(self, setup: Setup, progress: Progress) -> Cost:
        """What the network costs."""
        network, images = on_paper(setup)
        return cost(network, tuple(images.shape[1:]))

    def show(self, plan: Cost) -> None:
        """Print the costs."""
        print_costs(plan)

    def run(self, session: Session[Progress], plan: Cost) -> Outcome:
        """Train it, or take up the training of an earlier attempt."""
        session.begin()
        setup, engine = session.setup, session.engine
        network = prepare_network(setup, engine, session.folder)
        found = session.state.reference = measure_baseline(setup, engine, network)
        if session.writes:
            spec = network_spec(setup, metrics=found.figures())
            save(network, session.folder / MODEL, spec)
        session.save()
        return Outcome(found, None, weights_by_process=tuple(engine.digests(network)))

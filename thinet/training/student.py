"""One training by the recipe of the baseline that is the run's own: a step, resumed like others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from thinet.run.session import Session
from thinet.run.steps import Done, Keeping, Step, last_good, run_steps
from thinet.training.learning import Learning
from thinet.training.source import BASELINE_KEY, initial_network
from thinet.training.start import restore


def train_own(session: Session[Any], learning: Learning, step: str, who: str) -> nn.Module:
    """Train the network that the run begins with, from the weights that it is given.

    It begins as the baseline does and sees the same images, but is not kept for other runs.

    Args:
        session: Of the run.
        learning: How it is trained.
        step: The name of the step.
        who: What is trained, for people.
    """
    setup, engine, source = session.setup, session.engine, session.setup.source

    def train(network: nn.Module, folder: Path) -> Done:
        found = learning.fit(
            engine, network, [source.phase], source.training, BASELINE_KEY, folder / "fit", who
        )
        return Done(network, {"top1": found.top1, "top5": found.top5}, source.phase.epochs)

    if session.state.steps:
        network = restore(session, last_good(session))
    else:
        network, _ = initial_network(setup, who)
    return run_steps(session, [Step(step, train)], network, Keeping())

"""Where a run begins, and where it goes on: the network of the last finished step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from thinet.artifacts.store import Transform, dump_state
from thinet.base.errors import ThinetError
from thinet.base.evaluation import EVALUATIONS
from thinet.base.files import write_bytes_atomic
from thinet.base.messages import say
from thinet.run.session import Session
from thinet.run.steps import BASELINE, last_good
from thinet.training.measurement import measure_baseline
from thinet.training.source import prepare_network, restore_network
from thinet.training.teacher import prepare_teacher, taught


def start(
    session: Session[Any],
    planned: int | None = None,
    keep: bool = True,
    transforms: Sequence[Transform] = (),
) -> nn.Module:
    """The network as the last finished step left it, or the baseline, measured.

    Args:
        session: Whose other processes are started here.
        planned: Steps in all, for the line that says where the run goes on.
        keep: Whether the steps change the network, so that the baseline has to be kept.
        transforms: What the steps do to the network's modules: a network that one of them left
            has them already, the baseline has not.
    """
    session.begin()
    setup, engine = session.setup, session.engine
    if session.state.reference is None:
        network = prepare_network(setup, engine, session.folder)
        session.state.reference = measure_baseline(setup, engine, network)
        if session.writes and keep:
            write_bytes_atomic(session.folder / BASELINE, dump_state(network))
        session.save()
    else:
        done = transforms if session.state.steps else ()
        path = last_good(session)
        if not session.engine.exists(path):
            raise ThinetError(f"{path} does not exist: restore it, or type resume=off.")
        network = restore(session, path, done)
        of_all = "" if planned is None else f" of {planned}"
        say(f"resuming after {len(session.state.steps)}{of_all} steps")
    if session.reference.top1 is not None:
        what = EVALUATIONS[setup.evaluate].main.name
        say(f"baseline: test {what} {100 * session.reference.top1:.2f} %")
    return network


def restore(session: Session[Any], path: Path, transforms: Sequence[Transform] = ()) -> nn.Module:
    """The network with the shapes and weights of a file that the first process reads for all."""
    return restore_network(session.setup, session.engine, path, transforms)


def start_with_teacher(session: Session[Any]) -> nn.Module:
    """The teacher, trained if it has to be; its figures are what the run is compared with.

    Args:
        session: Whose other processes are started here.
    """
    session.begin()
    setup, engine = session.setup, session.engine
    assert setup.teacher is not None
    teacher = prepare_teacher(setup, engine, session.folder)
    if session.state.reference is None:
        own = taught(setup, setup.teacher)
        session.state.reference = measure_baseline(own, engine, teacher)
        session.save()
    return teacher

"""The loop of steps: what is repeated after a kill, what is kept, and what is said."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from thinet.artifacts.store import Spec, dump_state, read_state
from thinet.base.errors import DivergedError
from thinet.base.files import read_json, write_bytes_atomic
from thinet.base.records import from_json
from thinet.run import steps as loop
from thinet.run.session import Session
from thinet.run.state import RunState
from thinet.run.steps import BASELINE, LAST_GOOD, Done, Keeping, Step, last_good, run_steps


class KilledError(BaseException):
    """Stands for kill -9."""


@dataclass
class Progress:
    noted: list[int] = field(default_factory=list)


class Engine:
    """What the loop needs of one."""

    def __init__(self, step):
        self.rank, self.step, self.loggers, self.device = 0, step, [], torch.device("cpu")

    def barrier(self):
        """Of one process."""


def session_of(folder, keep=False):
    """As a new process would have it."""
    folder.mkdir(exist_ok=True)
    state = RunState.load(folder, "0")
    setup = SimpleNamespace(keep_steps=keep)
    return Session(setup, Engine(state.step), state, folder, from_json(Progress, state.progress))


def network_of(path=None):
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    if path is not None:
        network.load_state_dict(read_state(path))
    return network


def begin(session):
    """The network as the last finished step left it, as every method begins."""
    if not session.state.steps:
        write_bytes_atomic(session.folder / BASELINE, dump_state(network_of()))
        return network_of()
    return network_of(last_good(session))


def make_steps(session, count=3, worked=None):
    """Each adds its index + 1 to the weight, by a new network, and keeps half-way work."""

    def work(index, network, folder):
        if worked is not None:
            worked.append(index)
        half = folder / "half.safetensors"
        (folder / "fit").mkdir(parents=True, exist_ok=True)
        (folder / "fit" / "last.ckpt").write_text("x")
        if not half.exists():
            made = network_of()
            made.weight.data = network.weight.data + index + 1
            write_bytes_atomic(half, dump_state(made))
        session.engine.step += 10
        figures = {"top1": index / 10, "compression_rate": 0.5}
        note = partial(session.progress.noted.append, index)
        return Done(network_of(half), figures, epochs=index, note=note)

    return [Step(f"step {index}", partial(work, index)) for index in range(count)]


def go(folder, keep=False, worked=None, **keeping):
    session = session_of(folder, keep)
    network = begin(session)
    return session, run_steps(
        session, make_steps(session, worked=worked), network, Keeping(**keeping)
    )


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_steps_are_done_in_order_and_recorded(tmp_path):
    session, network = go(tmp_path / "run")
    assert network.weight.item() == 6
    done = session.state.steps
    assert [(one.index, one.name, one.epochs) for one in done] == [
        (0, "step 0", 0), (1, "step 1", 1), (2, "step 2", 2),
    ]  # fmt: skip
    assert [one.figures["top1"] for one in done] == [0, 0.1, 0.2]
    assert all(one.seconds >= 0 and one.peak_memory_mb > 0 for one in done)
    saved = from_json(RunState, read_json(tmp_path / "run" / "state.json"))
    assert saved == session.state
    assert saved.step == 30
    assert from_json(Progress, saved.progress).noted == [0, 1, 2]


@pytest.mark.parametrize(
    ("keep", "keeping", "left"),
    [
        (False, {}, {"steps/002/model.safetensors"}),
        (False, {"baseline": True}, {"steps/002/model.safetensors"}),
        (True, {}, {f"steps/00{k}/model.safetensors" for k in range(3)} | {BASELINE}),
        (False, {"network": False}, {BASELINE}),
    ],
)
def test_what_is_left_on_the_disk(keep, keeping, left, tmp_path):
    go(tmp_path / "run", keep, **keeping)
    assert files(tmp_path / "run") == {"state.json", *left}


@pytest.mark.parametrize("baseline", [True, False])
def test_the_baseline_is_there_for_as_long_as_it_is_needed(baseline, tmp_path):
    session = session_of(tmp_path / "run")
    there = []
    steps = [
        Step("x", lambda network, _: there.append((session.folder / BASELINE).exists())
             or Done(network))
        for _ in range(3)
    ]  # fmt: skip
    run_steps(session, steps, begin(session), Keeping(baseline=baseline))
    assert there == [True, baseline, baseline]
    assert not (session.folder / BASELINE).exists()


def test_a_note_is_taken_only_when_the_step_is_committed(tmp_path, monkeypatch):
    session = session_of(tmp_path / "run")
    seen = []
    original = loop._commit

    def commit(*args, **more):
        seen.append(list(session.progress.noted))
        original(*args, **more)
        seen.append(list(session.progress.noted))

    monkeypatch.setattr(loop, "_commit", commit)
    run_steps(session, make_steps(session), begin(session), Keeping())
    assert seen == [[], [0], [0], [0, 1], [0, 1], [0, 1, 2]]


def test_finished_steps_are_not_done_again(tmp_path):
    worked = []
    go(tmp_path / "run", worked=worked)
    _, network = go(tmp_path / "run", worked=worked)
    assert worked == [0, 1, 2]
    assert network.weight.item() == 6


def killed_at(line, folder, **keeping):
    """Run, and die before the ``line``-th line that ``thinet.run.steps`` executes.

    Returns:
        Whether it got so far.
    """
    passed = 0

    def trace(frame, event, _):
        nonlocal passed
        if frame.f_code.co_filename != loop.__file__:
            return None
        if event == "line":
            passed += 1
            if passed == line:
                raise KilledError
        return trace

    session = session_of(folder)
    network = begin(session)
    steps = make_steps(session)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run_steps(session, steps, network, Keeping(**keeping))
    except KilledError:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("keeping", [{}, {"baseline": True}], ids=repr)
def test_a_kill_before_any_line_of_the_loop_changes_nothing(keeping, tmp_path):
    whole, _ = go(tmp_path / "whole", **keeping)
    wanted = [(one.index, one.name, one.epochs, one.figures) for one in whole.state.steps]
    line = 0
    while True:
        line += 1
        folder = tmp_path / str(line)
        if not killed_at(line, folder, **keeping):
            break
        session, network = go(folder, **keeping)
        found = [(one.index, one.name, one.epochs, one.figures) for one in session.state.steps]
        assert found == wanted, line
        assert network.weight.item() == 6, line
        assert session.progress.noted == [0, 1, 2], line
        assert files(folder) == files(tmp_path / "whole"), line
    assert line > 60, "three steps have more lines than that"


# -- divergence


def diverging(session, at):
    def diverge(network, folder):
        raise DivergedError("the loss is not finite: lower the rate.")

    steps = make_steps(session)
    steps[at] = Step("bad", diverge)
    return steps


@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_last_good_network_is_kept_when_a_training_diverges(at, tmp_path, monkeypatch):
    session, kept = session_of(tmp_path / "run"), []
    monkeypatch.setattr(loop, "save", lambda *args: kept.append(args))
    spec = Spec(builder=None)
    keeping = Keeping(spec=lambda: spec, restore=network_of)
    with pytest.raises(DivergedError, match=rf"lower the rate; .*{LAST_GOOD} has the network"
                                            rf" after {at} of 3 steps\.$"):  # fmt: skip
        run_steps(session, diverging(session, at), begin(session), keeping)
    ((network, folder, given),) = kept
    assert network.weight.item() == [0, 1, 3][at]
    assert (folder, given) == (session.folder / LAST_GOOD, spec)
    assert len(session.state.steps) == at
    assert session.progress.noted == list(range(at))


def test_without_a_network_to_keep_the_reason_stands_alone(tmp_path):
    session = session_of(tmp_path / "run")
    with pytest.raises(DivergedError, match=r"^the loss is not finite: lower the rate\.$"):
        run_steps(session, diverging(session, 1), begin(session), Keeping())
    assert not (session.folder / LAST_GOOD).exists()


# -- rows for the dashboards


def test_a_row_goes_to_the_dashboards_with_the_step_it_belongs_to(tmp_path, monkeypatch):
    rows = []
    monkeypatch.setattr(loop, "log_step", lambda loggers, row, step: rows.append((step, row)))
    go(tmp_path / "run")
    assert [step for step, _ in rows] == [10, 20, 30]
    assert [row["top1"] for _, row in rows] == [0, 0.1, 0.2]
    assert all({"epochs", "seconds", "peak_memory_mb", "compression_rate"} <= set(row)
               for _, row in rows)  # fmt: skip


def test_a_step_without_figures_has_no_row(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "log_step", None)
    session = session_of(tmp_path / "run")
    run_steps(session, [Step("x", lambda net, _: Done(net))], begin(session),
              Keeping())  # fmt: skip
    assert len(session.state.steps) == 1

"""Checkpoints within an epoch, and SIGTERM: nothing is lost, the bits are the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch

from thinet.base.errors import Terminated, ThinetError
from thinet.engine.checkpoints import AtomicCheckpointIO, StageCheckpoint
from thinet.engine.logging.loggers import RunCSVLogger
from thinet.engine.module import Learner
from thinet.engine.phases import Phase
from thinet.engine.settings import Training

PHASES = (Phase(1, 0.05), Phase(2, 0.1, "cosine", warmup=0.5))
KEY = "stage 1"
STEPS = 4


@pytest.fixture(autouse=True)
def _handler():
    """A handler of the caller's, which must be in place again after every fit."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def often(engine):
    """An engine that writes a checkpoint after every step."""
    engine.devices = replace(engine.devices, checkpoint_minutes=0, max_steps_per_epoch=STEPS)
    return engine


def fit(engine, network, training, folder):
    engine.loggers, engine.step = [RunCSVLogger(folder)], 0
    accuracy = engine.fit(network, PHASES, training, KEY, folder / "fit")
    for logger in engine.loggers:
        logger.save()
    return accuracy, network.state_dict(), (folder / "metrics.csv").read_text()


WHOLE = {}


@pytest.fixture
def undisturbed(often, training, make_network, tmp_path):
    if not WHOLE:
        (tmp_path / "whole").mkdir()
        WHOLE["found"] = fit(often, make_network(), training, tmp_path / "whole")
    return WHOLE["found"]


def same(found, wanted):
    assert found[0] == wanted[0]
    assert all(torch.equal(found[1][key], wanted[1][key]) for key in wanted[1])
    assert found[2] == wanted[2], "metrics.csv differs"


@pytest.mark.parametrize(
    ("workers", "after"), [*((0, after) for after in range(12)), (1, 2), (1, 9)]
)
def test_a_kill_within_an_epoch_loses_one_step(
    workers, after, often, training, make_network, tmp_path, kill, undisturbed
):
    often.data.num_workers = workers
    kill("step", after)
    with pytest.raises(BaseException, match=r"^$"):
        fit(often, make_network(), training, tmp_path)
    torch.manual_seed(99)
    repeated = []
    counting = Training(
        partial(CountingSGD, log=repeated, lr=1.0, momentum=0.9, weight_decay=1e-3), 0.1, 2.0
    )
    same(fit(often, make_network(), counting, tmp_path), undisturbed)
    assert len(repeated) == 12 - after


class CountingSGD(torch.optim.SGD):
    def __init__(self, parameters, log, **settings):
        super().__init__(parameters, **settings)
        self.log = log

    def step(self, closure=None):
        self.log.append(1)
        return super().step(closure)


@pytest.mark.parametrize("after", [0, 2, 3, 4, 7, 10, 11])
def test_sigterm_ends_after_the_step_with_a_checkpoint(
    after, often, training, make_network, tmp_path, monkeypatch, undisturbed
):
    often.devices = replace(often.devices, checkpoint_minutes=60)
    original, calls = Learner.training_step, []

    def told(self, *args):
        calls.append(1)
        if len(calls) == after + 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(Learner, "training_step", told)
    with pytest.raises(Terminated):
        fit(often, make_network(), training, tmp_path)
    first = len(calls)
    assert first <= after + 2, "it went on"
    same(fit(often, make_network(), training, tmp_path), undisturbed)
    assert len(calls) == 12, "steps were repeated"


@pytest.mark.parametrize("steps", [1, 4])
def test_a_whole_group_told_to_end_stops_with_a_checkpoint(
    steps, often, training, make_network, tmp_path, monkeypatch
):
    """Loader processes get the signal too; an epoch may have a single step."""
    often.data.num_workers = 2
    often.devices = replace(often.devices, checkpoint_minutes=60, max_steps_per_epoch=steps)
    (tmp_path / "whole").mkdir()
    whole = fit(often, make_network(), training, tmp_path / "whole")
    original, calls = Learner.training_step, []

    def told(self, *args):
        calls.append(1)
        if len(calls) == 2:
            for worker in multiprocessing.active_children():
                worker.terminate()
                os.kill(worker.pid, signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(Learner, "training_step", told)
    (tmp_path / "told").mkdir()
    with pytest.raises(Terminated):
        fit(often, make_network(), training, tmp_path / "told")
    assert len(calls) <= 3
    same(fit(often, make_network(), training, tmp_path / "told"), whole)
    assert len(calls) == 3 * steps, "steps were repeated"


def test_an_accident_on_resuming_does_not_blame_the_checkpoint(
    often, training, make_network, tmp_path, kill, monkeypatch
):
    kill("step", 5)
    with pytest.raises(BaseException, match=r"^$"):
        fit(often, make_network(), training, tmp_path)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(Learner, "on_fit_start", full)
    with pytest.raises(torch.OutOfMemoryError):
        fit(often, make_network(), training, tmp_path)


def test_a_job_of_submitit_goes_on(often, training, make_network, tmp_path, monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    original, calls = Learner.training_step, []

    def told(self, *args):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(Learner, "training_step", told)
    fit(often, make_network(), training, tmp_path)
    assert len(calls) == 12


@pytest.mark.parametrize("hook", ["validation_step", "on_validation_epoch_end"])
def test_sigterm_in_a_validation_does_not_change_its_result(
    hook, often, training, make_network, tmp_path, monkeypatch, undisturbed
):
    original, calls = getattr(Learner, hook), []

    def told(self, *args):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(Learner, hook, told)
    with pytest.raises(Terminated):
        fit(often, make_network(), training, tmp_path)
    same(fit(often, make_network(), training, tmp_path), undisturbed)


def test_sigterm_in_an_evaluation_does_what_it_did_before(often, make_network, monkeypatch):
    original = Learner.test_step

    def told(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(Learner, "test_step", told)
    with pytest.raises(KeyboardInterrupt):  # that is what the caller's handler raises
        often.evaluate(make_network(), "test")


def test_no_handler_of_lightning_is_ever_in_place(
    often, training, make_network, tmp_path, monkeypatch
):
    """It waits for other processes from within whatever this one does."""
    seen, original = [], type(often.data).val_dataloader

    def asked(self):
        seen.append(signal.getsignal(signal.SIGTERM))
        return original(self)

    monkeypatch.setattr(type(often.data), "val_dataloader", asked)
    often.evaluate(make_network(), "val")
    assert seen
    assert set(seen) == {signal.default_int_handler}
    fit(often, make_network(), training, tmp_path)
    assert not [handler for handler in seen if "lightning" in type(handler).__module__]


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": torch.ones(3)}, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ThinetError, match="free some space"):
        AtomicCheckpointIO().save_checkpoint({"a": torch.zeros(3)}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_checkpoints_within_an_epoch_are_as_far_apart_as_was_asked_for(
    often, training, make_network, tmp_path, monkeypatch
):
    """On a clock of our own, on which every step takes a minute."""
    often.devices = replace(often.devices, checkpoint_minutes=2, max_steps_per_epoch=9)
    now, saved = [0.0], []
    step, save = Learner.training_step, StageCheckpoint._save

    def slow(self, *args):
        now[0] += 60
        return step(self, *args)

    def note(self, trainer):
        saved.append(trainer.global_step)
        save(self, trainer)

    monkeypatch.setattr("thinet.engine.checkpoints.time.monotonic", lambda: now[0])
    monkeypatch.setattr(Learner, "training_step", slow)
    monkeypatch.setattr(StageCheckpoint, "_save", note)
    often.fit(make_network(), [Phase(2, 0.05)], training, "stage", tmp_path)
    assert saved == [3, 6, 9, 12, 15, 18]

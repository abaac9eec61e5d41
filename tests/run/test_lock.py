"""Locks between processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from thinet.base.errors import BusyError
from thinet.run import lock

HOLD = """
import sys
from pathlib import Path
from thinet.run.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds ``tmp_path``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_held_folder_is_refused_and_its_holder_named(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    words = rf"in use by process {holder.pid} on .* since 20\d\d-"
    with pytest.raises(BusyError, match=words), lock.run_lock(tmp_path):
        pass
    assert (tmp_path / lock.HOLDER).exists(), "the holder's note was removed"


def test_a_killed_holder_lets_go(tmp_path, holder):
    holder.kill()
    holder.wait()
    with lock.run_lock(tmp_path):
        assert f'"process": {os.getpid()}' in (tmp_path / lock.HOLDER).read_text()
    assert not (tmp_path / lock.HOLDER).exists()


def test_it_is_let_go_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), lock.run_lock(tmp_path):
            raise ZeroDivisionError


def test_one_at_a_time_waits_for_the_other(tmp_path):
    order, said = [], []
    entered, leave = threading.Event(), threading.Event()

    def other():
        with lock.one_at_a_time(tmp_path / "a.lock", True, lambda value: value, lambda: None):
            entered.set()
            leave.wait()
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait()

    def wait():
        said.append(1)
        leave.set()

    with lock.one_at_a_time(tmp_path / "a.lock", True, lambda value: value, wait):
        order.append("this")
    thread.join()
    assert order == ["other", "this"]
    assert said == [1]


def test_the_processes_of_one_run_hold_it_together(tmp_path):
    """A process that is not the first does not touch the file; it follows the first."""
    path = tmp_path / "a.lock"
    with (
        lock.one_at_a_time(path, True, lambda value: value, lambda: None),
        lock.one_at_a_time(path, False, lambda _: True, lambda: None),
    ):
        pass

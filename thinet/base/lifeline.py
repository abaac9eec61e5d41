"""Processes end when they are told to, at any moment, and with the one that started them.

Python answers a signal between two instructions of the main thread. While that thread waits in
C++, for the other processes of a run to come or for a collective call, nothing is answered. So a
thread beside it hears of every signal from the system, and ends the process where the main thread
does not manage it in time. Other threads look whether the processes that belong to this one live.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from subprocess import Popen, TimeoutExpired
from typing import Any

from thinet.base.errors import Terminated
from thinet.base.messages import is_first_process, open_streams
from thinet.base.system_errors import lost_process

GRACE = 8.0
"""Seconds that the main thread has to end in an orderly way."""
PERIOD = 0.25
"""Seconds between two looks at other processes."""
LAST = 20.0
"""Seconds that others may take to end after a run that went well."""
FIRST = "THINET_FIRST"
"""Variable that tells a process who started it as one of several of a run."""
WATCH = "thinet-watch"
_AGAIN = "type the same command again to go on."
STOPPED = (143, f"\nstopped by SIGTERM: {_AGAIN}")
UNREAD = (141, f"stopped, since nothing reads the output any more: {_AGAIN}")
INTERRUPTED = (130, f"\ninterrupted: {_AGAIN}")
_TOLD = {signal.SIGTERM: STOPPED, signal.SIGINT: INTERRUPTED}


@dataclass
class _Process:
    """What is known of this process.

    Attributes:
        begun: Whether :func:`begin` was called.
        belongs: Whether the first process of the run started it, and sees its exit code.
        others: The processes that it started, as the first of a run.
        ending: Whether its time is running out.
        patient: Whether something of a limited length of its own is under way.
        said: Whether the reason for its end has been printed.
    """

    begun: bool = False
    belongs: bool = False
    others: list[Popen[Any]] = field(default_factory=list)
    ending: bool = False
    patient: bool = False
    said: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


_this = _Process()


def begin() -> None:
    """Answer SIGTERM and Ctrl-C from now on; the first lines of a program, before any import."""
    if _this.begun:
        return
    _this.begun = True
    open_streams()
    end_with_first()
    for number in _TOLD:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _leave_at_once)
    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)
    signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_forget)  # else a loader's signals would be heard here
    _in_background(_listen, ear)
    if _this.belongs:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TOLD)  # see starting_others


@contextmanager
def answering() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated` and Ctrl-C KeyboardInterrupt, in the main thread.

    A process that the first one started writes nothing, and still ends at once: its connections
    are then lost when its exit code can be seen, and not before.
    """
    if _this.begun and _this.belongs:
        yield
        return
    _this.said = False
    before = {number: signal.getsignal(number) for number in _TOLD}
    signal.signal(signal.SIGTERM, _raise_terminated)
    if before[signal.SIGINT] in (signal.default_int_handler, _leave_at_once):
        signal.signal(signal.SIGINT, _raise_interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def patiently() -> Iterator[None]:
    """Within, a process that was told to end may take its time."""
    _this.patient = True
    try:
        yield
    finally:
        _this.patient = False


def leave(code: int, text: str | None = None) -> None:
    """Say why the run ends and let nothing hinder it: the caller exits with that code next."""
    if text is not None and is_first_process() and not _this.said:
        _this.said = True
        print(text, file=sys.stderr, flush=True)
    for other in _this.others:
        other.kill()  # only the first one writes
    if not _this.begun:
        return
    for number in _TOLD:
        if signal.getsignal(number) in _OURS:  # told again, or only now: it is leaving
            signal.signal(number, _leave_at_once)
    if _this.others or code in (STOPPED[0], INTERRUPTED[0]):
        _count_down(code, text or "")


def belongs() -> bool:
    """Whether the first process of the run started this one itself, and sees its exit code."""
    return _this.belongs


def end_with_first() -> None:
    """End this process when the first one of its run is gone, if that one started it.

    Under torchrun, SLURM or submitit the parent is a launcher, which has its own ways.
    """
    first = os.environ.pop(FIRST, None)
    if first is not None:
        _this.belongs = True
        end_with(int(first))


def end_with(parent: int) -> None:
    """End this process when its parent is gone, so that none holds a GPU for a dead run or sweep.

    Whatever is on disk is whole, and the repeated command goes on from it.
    """
    if os.getpid() == parent or any(thread.name == WATCH for thread in threading.enumerate()):
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PERIOD)
        os._exit(1)

    threading.Thread(target=watch, name=WATCH, daemon=True).start()


@contextmanager
def starting_others() -> Iterator[None]:
    """Within, processes of the same program are started as further ones of this run.

    They are born with the signals held back until their own :func:`begin`, so that none meets
    Python while it starts, which would answer with a traceback.
    """
    os.environ[FIRST] = str(os.getpid())
    held = signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD if _this.begun else ())
    try:
        yield
    finally:
        del os.environ[FIRST]
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def adopt(others: Sequence[Popen[Any]]) -> None:
    """Let a run end when one of the processes that this one started for it has failed."""
    _this.others = list(others)
    atexit.register(_wait_for_others)
    _in_background(_watch_others)


def why_another_ended(patience: float = 3.0) -> tuple[int, str] | None:
    """Exit code and sentence for a process that was lost; None if none was started from here."""
    end = time.monotonic() + (patience if _this.others else 0.0)
    while True:
        for other in _this.others:
            if other.poll():
                return _meaning(other.returncode)
        if time.monotonic() >= end:
            return None
        time.sleep(PERIOD / 5)


def _meaning(code: int) -> tuple[int, str]:
    for number, told in _TOLD.items():
        if code in (-number, told[0]):
            return told
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return 2, f"error: {lost_process(how)}"


def _watch_others() -> None:
    while any(other.poll() is None for other in _this.others):
        if any(other.returncode for other in _this.others):
            break
        time.sleep(PERIOD)
    failed = [other.returncode for other in _this.others if other.returncode]
    if failed:
        _count_down(*_meaning(failed[0]))


def _wait_for_others() -> None:
    """Leave no process behind; they end with this one unless they hang in a collective call."""
    end = time.monotonic() + LAST
    for other in _this.others:
        try:
            other.wait(max(0.0, end - time.monotonic()))
        except TimeoutExpired:
            other.kill()


def _listen(ear: int) -> None:
    """Hear of every signal; those that end the process begin its last seconds.

    Not so where others have taken the signal over: training, which ends with a checkpoint.
    """
    while heard := os.read(ear, 64):
        for number in heard:
            if number in _TOLD and signal.getsignal(number) in _OURS:
                _count_down(*_TOLD[signal.Signals(number)])


def _count_down(code: int, text: str) -> None:
    """End the process after a while, whatever its main thread does."""
    with _this.lock:
        if _this.ending:
            return
        _this.ending = True

    def wait() -> None:
        end = time.monotonic() + GRACE
        while time.monotonic() < end or _this.patient:
            time.sleep(PERIOD)
        _leave(code, text)

    _in_background(wait)


def _leave(code: int, text: str) -> None:
    if text and is_first_process() and not _this.said:
        with suppress(OSError):  # past the lock of sys.stderr, which the main thread may hold
            os.write(2, f"{text}\n".encode())
    for other in _this.others:
        other.kill()
    os._exit(code)


def _leave_at_once(number: int, _: Any) -> None:
    with suppress(Exception):  # it may be just being written to
        sys.stdout.flush()
    _leave(*_TOLD[signal.Signals(number)])


def _raise_terminated(*_: Any) -> None:
    raise Terminated


def _raise_interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


_OURS = (_leave_at_once, _raise_terminated, _raise_interrupt)


def _forget() -> None:
    """A child by fork is not this process, and its signals are not meant for it."""
    signal.set_wakeup_fd(-1)
    _this.others = []


def _in_background(target: Any, *arguments: Any) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()

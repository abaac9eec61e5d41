"""Processes end when told to, at any moment, and with the one they belong to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEGIN = """
import ctypes, os, signal, subprocess, sys, time
from thinet.base import lifeline
lifeline.GRACE = lifeline.PERIOD = 0.1
def hang():  # as in a collective call: no signal reaches Python's main thread
    print(os.getpid(), flush=True)
    mutex, libc = ctypes.create_string_buffer(128), ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex); libc.pthread_mutex_lock(mutex)
def start(code):
    with lifeline.starting_others():
        env = {**os.environ, "LOCAL_RANK": "1"}
        lifeline.adopt([subprocess.Popen([sys.executable, "-c", code], env=env)])
"""
OTHER = f"{BEGIN}\nlifeline.begin(); hang()"


@pytest.fixture
def script():
    started = []
    # Whoever runs the tests in the background has it ignored, and so would these.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(code):
        command = [sys.executable, "-c", BEGIN + code]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes))
        return started[-1]

    yield run
    for one in started:
        with suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        one.communicate()
    signal.signal(signal.SIGINT, before)


def end_of(process):
    _, text = process.communicate(timeout=60)  # until none holds its output any more
    assert "Traceback" not in text, text
    return process.returncode, text.strip()


STOPPED = "stopped by SIGTERM: type the same command again to go on."
TOLD = [
    (signal.SIGTERM, (143, STOPPED)),
    (signal.SIGINT, (130, "interrupted: type the same command again to go on.")),
]


@pytest.mark.parametrize(("number", "wanted"), TOLD)
@pytest.mark.parametrize(
    "code",
    [
        "hang()",
        "print(flush=True); time.sleep(60)",
        "import thinet.app.cli_errors\nthinet.app.cli_errors.errors_as_sentences(hang)",
    ],
    ids=["before, in C++", "before, in Python", "errors_as_sentences"],
)
def test_a_signal_ends_the_process_wherever_its_main_thread_is(code, number, wanted, script):
    process = script(f"lifeline.begin()\n{code}")
    process.stdout.readline()
    state = ""
    while state != "S":  # until its main thread hangs
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        assert state != "Z", process.communicate()[1]
    process.send_signal(number)
    assert end_of(process) == wanted


def test_a_signal_that_others_have_taken_over_is_theirs(script):
    process = script(
        "lifeline.begin()\n"
        "noted = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: noted.append(1))\n"
        "print(flush=True)\n"
        "while not noted: time.sleep(0.01)\n"
        "time.sleep(0.5); sys.exit(7)"
    )
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert end_of(process) == (7, "")


@pytest.mark.parametrize(("number", "wanted"), TOLD)
def test_something_of_a_limited_length_is_waited_for(number, wanted, script):
    process = script(
        "lifeline.begin()\n"
        "def work():\n"
        "    try: print(flush=True); time.sleep(60)\n"
        "    finally:\n"
        "        with lifeline.patiently(): time.sleep(0.5); print('closed', flush=True)\n"
        "import thinet.app.cli_errors; thinet.app.cli_errors.errors_as_sentences(work)"
    )
    process.stdout.readline()
    process.send_signal(number)
    assert process.stdout.readline() == "closed\n"
    assert end_of(process) == wanted


def test_a_forked_process_is_not_heard_by_its_parent(script):
    process = script(
        "lifeline.begin()\n"
        "import warnings; warnings.simplefilter('ignore')  # Python 3.12 warns of threads\n"
        "child = os.fork()\n"
        "if not child: os._exit(0 if signal.set_wakeup_fd(-1) == -1 else 9)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert end_of(process) == (0, "")


def test_another_process_ends_with_the_first(script):
    process = script(f"lifeline.begin(); start({OTHER!r}); hang()")
    assert {int(process.stdout.readline()) for _ in range(2)} > {process.pid}
    process.kill()
    assert end_of(process) == (-signal.SIGKILL, "")


def test_a_process_whose_first_is_gone_before_it_looks_ends(script):
    late = f"import time; time.sleep(0.5)\n{OTHER}"
    process = script(f"lifeline.begin(); start({late!r}); os.kill(os.getpid(), signal.SIGKILL)")
    assert end_of(process) == (-signal.SIGKILL, "")


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        *TOLD,
        (
            signal.SIGKILL,
            (2, "error: another process of this run has ended (killed by SIGKILL): type the same "
             "command again, it goes on after the last checkpoint."),
        ),
    ],
)  # fmt: skip
def test_the_first_process_ends_with_another(number, wanted, script):
    process = script(f"lifeline.begin(); start({OTHER!r}); hang()")
    (other,) = {int(process.stdout.readline()) for _ in range(2)} - {process.pid}
    os.kill(other, number)
    assert end_of(process) == wanted


@pytest.mark.parametrize(("number", "wanted"), TOLD)
def test_a_signal_at_the_birth_of_another_process_waits_for_its_first_lines(number, wanted, script):
    told = f"import os; os.kill(os.getpid(), {int(number)})\n{OTHER}"
    process = script(f"lifeline.begin(); start({told!r}); hang()")
    assert end_of(process) == wanted


def test_a_run_that_went_well_waits_for_the_others(script):
    slow = f"{BEGIN}\nlifeline.begin(); time.sleep(0.5); print('done', flush=True)"
    process = script(f"lifeline.begin(); start({slow!r})")
    text, errors = process.communicate(timeout=60)
    assert (process.returncode, text, errors) == (0, "done\n", "")


def test_a_launcher_is_no_first_process(script):
    """Under torchrun and srun the parent may end, or be a shell."""
    process = script(
        "os.environ.update(LOCAL_RANK='1', RANK='1', WORLD_SIZE='2'); lifeline.begin()\n"
        "import threading; print([thread.name for thread in threading.enumerate()], flush=True)\n"
        "sys.exit(int(lifeline.belongs()))"
    )
    assert "thinet-watch" not in process.stdout.readline()
    assert end_of(process) == (0, "")


@pytest.mark.parametrize(("number", "wanted"), TOLD)
def test_another_process_ends_at_once_when_told_and_does_not_unwind(number, wanted, script):
    process = script(
        "os.environ.update(THINET_FIRST=str(os.getppid()), LOCAL_RANK='1'); lifeline.begin()\n"
        "def work():\n"
        "    try: print(flush=True); time.sleep(60)\n"
        "    finally: print('unwinding', flush=True)\n"
        "import thinet.app.cli_errors; thinet.app.cli_errors.errors_as_sentences(work)"
    )
    process.stdout.readline()
    process.send_signal(number)
    assert process.stdout.readline() == ""
    assert end_of(process) == (wanted[0], "")


def test_another_process_that_lost_the_first_is_silent(script):
    """It inherits HYDRA_FULL_ERROR from the first one, where thinet has set it."""
    process = script(
        "os.environ.update(THINET_FIRST=str(os.getppid()), LOCAL_RANK='1', HYDRA_FULL_ERROR='1')\n"
        "lifeline.begin(); from thinet.app import cli_errors as own\n"
        "own._first_has_ended = lambda: True\n"
        "def work(): raise RuntimeError('Connection closed by peer')\n"
        "own.errors_as_sentences(work)"
    )
    assert end_of(process) == (2, "")


def test_the_first_process_says_why_another_was_lost(script):
    process = script(
        f"lifeline.begin(); start({OTHER!r})\n"
        "from thinet.app.cli_errors import errors_as_sentences\n"
        "def work():\n"
        "    os.kill(lifeline._this.others[0].pid, signal.SIGTERM)\n"
        "    raise RuntimeError('Connection closed by peer')\n"
        "errors_as_sentences(work)"
    )
    assert end_of(process) == (143, STOPPED)


@pytest.mark.parametrize(
    ("first", "agreed", "code"), [("", False, 0), ("THINET_FIRST", False, 143), ("", True, 0),
                                  ("THINET_FIRST", True, 0)],
)  # fmt: skip
def test_another_process_ends_in_silence_and_tells_the_first_what_it_has_to_know(
    first, agreed, code, script
):
    process = script(
        f"os.environ.update({first or 'X'}=str(os.getppid()), LOCAL_RANK='1'); lifeline.begin()\n"
        "from thinet.app.cli_errors import errors_as_sentences\n"
        "from thinet.base.errors import Terminated\n"
        f"def work(): raise Terminated(agreed={agreed})\n"
        "errors_as_sentences(work)"
    )
    assert end_of(process) == (code, "")

"""What a warm process does is what a new one does, and nothing stays behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm

pytestmark = pytest.mark.skipif(not warm.POSSIBLE, reason="forks are told apart on Linux alone")
ROOT = Path(__file__).parents[1]
BOTH = pytest.mark.parametrize("run", [subprocess.run, warm.run], ids=["new", "warm"])


def code(text: str, *words: object) -> list[str]:
    return [sys.executable, "-c", text, *map(str, words)]


def test_it_is_warm():
    text = "import sys; print('torch' in sys.modules, 'thinet.app.main' in sys.modules)"
    process = warm.start(code(text), stdout=subprocess.PIPE, text=True)
    assert isinstance(process, warm.Process)
    assert process.communicate(timeout=60) == ("True True\n", None)


@BOTH
@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", 0), ("raise SystemExit(3)", 3), ("raise SystemExit('words')", 1), ("1 / 0", 1),
        ("import os; os._exit(7)", 7),
        ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM), ("import os; os.abort()", -6),
        # Said, since what runs in the background may have been told to ignore it.
        (
            "import signal; signal.signal(2, signal.default_int_handler)\n"
            "try: signal.raise_signal(2)\nexcept KeyboardInterrupt: exit(5)",
            5,
        ),
    ],
)  # fmt: skip
def test_it_ends_as_python_does(run, text, status):
    done = run(code(text), capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert ("Traceback" in done.stderr) == (text == "1 / 0")
    if text == "1 / 0":
        assert done.stderr == (
            "Traceback (most recent call last):\n"
            '  File "<string>", line 1, in <module>\n'
            "ZeroDivisionError: division by zero\n"
        )
    if "words" in text:
        assert done.stderr == "words\n"


@BOTH
def test_what_python_does_at_the_end(run, tmp_path):
    text = (
        "import atexit, sys, threading, time\n"
        "atexit.register(print, 'at exit')\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\n"
        "sys.stdout.write('not a line, '); sys.stderr.write('apart')\n"
        "open_still = open(sys.argv[1], 'w'); open_still.write('whole')"
    )
    done = run(code(text, tmp_path / "file"), capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("not a line, thread\nat exit\n", "apart")
    assert (tmp_path / "file").read_text() == "whole"


SEEN = """
import json, os, signal, sys
print(json.dumps([
    sys.argv, sys.path, sys.orig_argv, os.getcwd(), __name__, globals().get("__file__"),
    globals().get("__spec__") and __spec__.name, sys.modules["__main__"].__dict__ is globals(),
    {key: value for key, value in os.environ.items() if not key.startswith(IMPORTED)},
    [signal.getsignal(number).__repr__().split(" at ")[0] for number in (2, 13, 15, 17)],
    sorted(map(int, os.listdir("/proc/self/fd")))[:-1], os.getpgid(0) == os.getpid(),
    sys.stdout.line_buffering, sys.stdout.encoding, sys.stderr.errors, sys.stdout.write_through,
    os.popen("echo $ONLY_HERE $GONE").read(),
    int(open("/proc/self/status").read().partition("Threads:")[2].split()[0]),
]))
""".replace("IMPORTED", '("KMP_", "PYTORCH_", "QT_", "TORCH", "LC_CTYPE")')


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("kind", ["-c", "-m", "script"])
@pytest.mark.parametrize(
    "more", [{"PYTHONUNBUFFERED": ""}, {"PYTHONUNBUFFERED": "1", "PYTHONPATH": "here:"}]
)
def test_it_begins_as_python_does(kind, more, deaf, tmp_path, monkeypatch):
    if deaf:  # whatever it was when the server began
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    monkeypatch.setenv("GONE", "still here")
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "seen.py").write_text(SEEN)
    words, cwd = {
        "-c": (["-c", SEEN], elsewhere), "-m": (["-m", "seen"], folder),
        "script": ([folder / "seen.py"], elsewhere),
    }[kind]  # fmt: skip
    env = {key: value for key, value in os.environ.items() if key != "GONE"}
    env |= {"ONLY_HERE": "yes", **more}
    found = [
        run([sys.executable, *words, "a", "-b"], env=env, cwd=cwd, check=True, timeout=60,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=session)
        for session in (True, False) for run in (subprocess.run, warm.run)
    ]  # fmt: skip
    assert found[1].stdout == found[0].stdout
    assert found[3].stdout == found[2].stdout
    assert found[0].stdout != found[2].stdout, "who leads a session"


def test_what_was_read_at_import_is_read_again(tmp_path):
    text = (
        "import lightning_fabric, tempfile, random, numpy, torch\n"
        "import multiprocessing.process as m\n"
        "from lightning_utilities.core.rank_zero import rank_zero_only\n"
        "print(rank_zero_only.rank, tempfile.gettempdir(), m.ORIGINAL_DIR)\n"
        "print(torch.initial_seed(), numpy.random.random(), random.random(), hash('a'))"
    )
    env = {**os.environ, "RANK": "1", "TMPDIR": str(tmp_path)}
    new, *warm_ones = (
        run(code(text), env=env, cwd=tmp_path, capture_output=True, text=True, check=True,
            timeout=60).stdout.splitlines()
        for run in (subprocess.run, warm.run, warm.run, warm.run)
    )  # fmt: skip
    assert new[0] == f"1 {tmp_path} {tmp_path}"
    assert [one[0] for one in warm_ones] == [new[0]] * 3
    seed, first, second, hashed = zip(*(one[1].split() for one in warm_ones), strict=True)
    assert [len(set(found)) for found in (seed, first, second)] == [3, 3, 3]
    assert hashed[0] != hashed[1], "of two that follow each other the hashes differ"


def test_it_is_started_anew_where_python_reads_something_once(monkeypatch):
    plain = code("import sys; print('torch' in sys.modules)")
    for words, more in (
        (plain, {"OMP_NUM_THREADS": "2"}), (plain, {"PYTHONHASHSEED": "1"}),
        ([sys.executable, "-W", "ignore", *plain[1:]], {}),
    ):  # fmt: skip
        env = {**os.environ, **more}
        done = warm.run(words, env=env, capture_output=True, text=True, timeout=60)
        assert done.stdout == "False\n"


def test_what_was_written_before_a_timeout_is_not_lost(tmp_path):
    os.mkfifo(tmp_path / "go")
    text = "import sys; print('before', flush=True); open(sys.argv[1]).read(); print('after')"
    process = warm.start(code(text, tmp_path / "go"), stdout=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.01)
    (tmp_path / "go").write_text("")
    assert process.communicate(timeout=60) == ("before\nafter\n", None)


HOLD = "import sys; print('here', flush=True); sys.stdin.read(); print('and gone')"


def hold(**options: object) -> warm.Process:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = warm.start(code(HOLD), text=True, **pipes, **options)
    assert process.stdout.readline() == "here\n"
    return process


def test_two_at_a_time_and_a_wait_that_is_too_short():
    first, second = hold(), hold()
    assert first.pid != second.pid
    for process in (second, first):
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
    assert second.communicate(timeout=60) == ("and gone\n", None)
    assert first.poll() is None
    assert first.communicate(timeout=60) == ("and gone\n", None)
    assert (first.returncode, second.returncode) == (0, 0)


@pytest.mark.parametrize("how", ["kill", "terminate", "group"])
def test_signals_reach_the_process_itself(how):
    process = hold(start_new_session=True)
    assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
    if how == "group":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        getattr(process, how)()
    number = signal.SIGTERM if how == "terminate" else signal.SIGKILL
    assert process.wait(60) == process.poll() == -number
    assert not Path(f"/proc/{process.pid}").exists(), "it has been waited for"
    process.kill()  # and nothing happens
    assert process.communicate() == ("", None)


def test_a_run_that_takes_too_long_is_killed(tmp_path):
    text = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run(code(text, tmp_path / "pid"), capture_output=True, timeout=1)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


USER = """
import os, subprocess, sys
from tests import warm
warm.HEAVY = ()
process = warm.start([sys.executable, "-c", "import sys; print(sys.stdin.read())"],
                     stdin=subprocess.PIPE)
print(warm.server(0)[1].pid, process.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["ends", "killed"])
def test_a_server_ends_with_the_process_that_started_it(how):
    user = subprocess.Popen(code(USER), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    server, child = (os.pidfd_open(int(word)) for word in user.stdout.readline().split())
    if how == "killed":
        user.kill()
    user.communicate(timeout=60)
    for ended in (server, child):  # nobody holds the end of the child's input any more
        assert select.select([ended], [], [], 60)[0]
        os.close(ended)

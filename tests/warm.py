"""Python processes that need not import torch first: forks of a process that has.

``warm.start([sys.executable, ...], ...)`` and ``warm.run(...)`` are what ``subprocess.Popen`` and
``subprocess.run`` are, for tests whose subject is what a process does and not how it starts: a
start costs some hundredths of a second in place of seconds. Two servers take turns, since hashes
of strings are the same in all forks of one: a set that two ranks, or a run and its resumption,
go through in different orders is noticed as it is in new processes.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
POSSIBLE = sys.platform == "linux" and hasattr(os, "pidfd_open")
HEAVY = (
    "torch", "torch.distributed", "torch.nn.parallel", "torchvision.transforms.v2", "torchmetrics",
    "pytorch_lightning", "matplotlib.backends.backend_agg", "matplotlib.figure", "sklearn.datasets",
    "sklearn.linear_model", "safetensors.torch", "jinja2", "pydantic", "rich.table", "hydra.main",
    "hydra.core.utils", "multiprocessing.connection", "multiprocessing.process", "tempfile",
    "thinet.app.main", "thinet.app.cli_errors", "thinet.engine.engine",
    "thinet.engine.logging.dashboards", "thinet.pruning.method", "thinet.report",
)  # fmt: skip
"""What a run imports; nothing of it may run an operation of torch."""
THREADS = {"OMP_NUM_THREADS": "1"}
_ENVIRONMENT = {**os.environ, **THREADS}  # before any test changes it
_FOLLOWED = ("PYTHONPATH", "PYTHONUNBUFFERED")
_STATUS = struct.Struct("i")
_turns = itertools.cycle(range(2))


def start(args: Sequence[Any], **options: Any) -> Any:
    """``subprocess.Popen(args, **options)``, warm where that is possible.

    Args:
        args: ``[sys.executable, SCRIPT or -c CODE or -m MODULE, ...]``.
        options: ``env``, ``cwd``, ``stdin``, ``stdout``, ``stderr``, ``text`` and
            ``start_new_session`` of Popen.
    """
    words = [os.fspath(word) for word in args]
    env = os.environ if options.get("env") is None else options["env"]
    if not _fits(words, env):
        return subprocess.Popen(words, **options)
    return Process(words, **{**options, "env": dict(env)})


def run(
    args: Sequence[Any], *, capture_output: bool = False, timeout: float | None = None,
    check: bool = False, **options: Any,
) -> subprocess.CompletedProcess[Any]:  # fmt: skip
    """``subprocess.run``, warm where that is possible."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = start(args, **options)
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if check and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args, out, err)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _fits(words: list[str], env: Mapping[str, str]) -> bool:
    """Whether a fork would be what a new process is: Python reads some variables only once."""
    read_once = {
        name for name in {*env, *_ENVIRONMENT} if name.startswith(("PYTHON", "OMP_", "MKL_", "LD_"))
    }
    return (
        POSSIBLE
        and words[0] == sys.executable
        and (words[1] in ("-c", "-m") or words[1][:1] != "-")
        and all(env.get(name) == _ENVIRONMENT.get(name) for name in read_once - {*_FOLLOWED})
    )


@cache
def server(place: int) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """One of the servers of this process, with the socket that it hears; started when needed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path = [str(ROOT), *filter(None, [_ENVIRONMENT.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "warm_server.py"), str(theirs.fileno()),
         str(os.getpid()), *HEAVY],
        pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=ROOT,
        env={**_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path)},
    )  # fmt: skip
    theirs.close()

    def end(starter: int = os.getpid()) -> None:
        if os.getpid() == starter:  # and not in a loader, by fork
            ours.close()
            process.wait()

    atexit.register(end)
    return ours, process


class Process:
    """A process by fork; what it has is what ``subprocess.Popen`` has."""

    def __init__(
        self, args: list[str], *, env: dict[str, str], cwd: Any = None, stdin: Any = None,
        stdout: Any = None, stderr: Any = None, text: bool = False, start_new_session: bool = False,
    ) -> None:  # fmt: skip
        self.args, self.returncode = args, None
        self._readers: dict[str, threading.Thread] = {}
        self._read: dict[str, Any] = {}
        theirs: list[int] = []
        self.stdin = self._stream(stdin, 0, text, theirs)
        self.stdout = self._stream(stdout, 1, text, theirs)
        self.stderr = self._stream(stderr, 2, text, theirs)
        request = {
            "words": args[1:], "env": env, "cwd": os.path.abspath(cwd or "."),
            "start_new_session": start_new_session,
            # As of now: a trainer that was interrupted leaves its process deaf.
            "deaf": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        }  # fmt: skip
        self._heard, asker = socket.socketpair()
        with asker:
            socket.send_fds(server(next(_turns))[0], [b"?"], [asker.fileno(), *theirs])
        for file in theirs:
            os.close(file)
        self._heard.sendall(json.dumps(request).encode() + b"\n")
        self.pid = self._hear()

    def _stream(self, wanted: Any, number: int, text: bool, theirs: list[int]) -> IO[Any] | None:
        """Our end of a standard stream, if there is one; the other end goes to ``theirs``."""
        if wanted == subprocess.PIPE:
            reading, writing = os.pipe()
            theirs.append(writing if number else reading)
            kind = ("r" if number else "w") + ("" if text else "b")
            return open(reading if number else writing, kind)
        if wanted == subprocess.DEVNULL:
            theirs.append(os.open(os.devnull, os.O_RDWR))
        elif wanted == subprocess.STDOUT:
            theirs.append(os.dup(theirs[1]))
        else:
            theirs.append(os.dup(number if wanted is None else _number(wanted)))
        return None

    def _hear(self) -> int:
        found = self._heard.recv(_STATUS.size)
        if not found:
            raise RuntimeError("the server of warm processes has ended: see its traceback")
        return int(_STATUS.unpack(found)[0])

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._heard.settimeout(None if timeout is None else max(0.0, timeout))
            try:
                self.returncode = os.waitstatus_to_exitcode(self._hear())
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
            self._heard.close()
        return self.returncode

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """What it writes until its streams end; on a timeout nothing of it is lost."""
        if self.stdin is not None and not self.stdin.closed:
            with suppress(BrokenPipeError), self.stdin:
                if input:
                    self.stdin.write(input)
        end = None if timeout is None else time.monotonic() + timeout
        streams = {"stdout": self.stdout, "stderr": self.stderr}
        for name, stream in streams.items():
            if stream is not None and name not in self._readers:
                self._readers[name] = threading.Thread(
                    target=self._take, args=(name, stream), daemon=True
                )
                self._readers[name].start()
        for reader in self._readers.values():
            reader.join(None if end is None else max(0.0, end - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        self.wait(None if end is None else end - time.monotonic())
        return self._read.get("stdout"), self._read.get("stderr")

    def _take(self, name: str, stream: IO[Any]) -> None:
        with stream:
            self._read[name] = stream.read()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _number(file: Any) -> int:
    return file if isinstance(file, int) else int(file.fileno())

"""A process that has imported everything heavy, and becomes the processes that tests ask for.

It runs no operation of torch, so that it has one thread and a fork of it is as sound as a new
process. A fork then makes of itself what ``python SCRIPT``, ``-c`` and ``-m`` would start with:
words, folder, environment, standard streams, signals, path. What it cannot have of its own are
the seed of ``hash`` and what packages had read from the environment when they were imported; nor
are its modules taken apart at its end.

Started by :mod:`tests.warm`, which has the other end of its socket.
"""

from __future__ import annotations

import atexit
import builtins
import gc
import importlib
import importlib.machinery
import io
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
import threading
import types
from contextlib import suppress
from typing import Any

STATUS = struct.Struct("i")


class Server:
    """What lies between a request and the status of the process made for it.

    Attributes:
        control: Where requests come; that it ends is the end of this process.
        children: A living process and where its status is sent, by its file descriptor.
    """

    def __init__(self, control: socket.socket, parent: int) -> None:
        self.control = control
        self.parent = os.pidfd_open(parent)
        self.children: dict[int, tuple[int, socket.socket]] = {}
        self.selector = selectors.DefaultSelector()
        for file in (control, self.parent):
            self.selector.register(file, selectors.EVENT_READ)

    def serve(self) -> dict[str, Any]:
        """Take requests until the parent is gone; returns in a fork alone, with its request."""
        while True:
            for key, _ in self.selector.select():
                if key.fd == self.parent:
                    os._exit(0)
                elif key.fd in self.children:
                    self._reap(key.fd)
                else:
                    request = self._take()
                    if request is not None:
                        return request

    def _take(self) -> dict[str, Any] | None:
        """Fork for one request; in the fork, it."""
        mark, files, _, _ = socket.recv_fds(self.control, 1, 4)
        if not mark:
            os._exit(0)
        asker = socket.socket(fileno=files[0])
        with asker.makefile("rb") as lines:
            text = lines.readline()
        heard, done = os.pipe()
        pid = os.fork() if text.endswith(b"\n") else -1
        if pid == 0:
            self._forget()
            for file in (asker.detach(), heard):
                os.close(file)
            request: dict[str, Any] = json.loads(text)
            if request["start_new_session"]:
                os.setsid()
            for number, file in enumerate(files[1:]):
                os.dup2(file, number)
            for file in (*files[1:], done):
                os.close(file)
            return request
        for file in (*files[1:], done):
            os.close(file)
        os.read(heard, 1)  # ends when the fork leads its session: it may be killed from now on
        os.close(heard)
        if pid < 0:
            asker.close()
            return None
        ended = os.pidfd_open(pid)
        self.children[ended] = (pid, asker)
        self.selector.register(ended, selectors.EVENT_READ)
        _tell(asker, pid)
        return None

    def _reap(self, ended: int) -> None:
        pid, asker = self.children.pop(ended)
        self.selector.unregister(ended)
        os.close(ended)
        _tell(asker, os.waitpid(pid, 0)[1])
        asker.close()

    def _forget(self) -> None:
        """In a fork: nothing of the server's stays open."""
        for ended, (_, asker) in self.children.items():
            os.close(ended)
            asker.close()
        self.selector.close()
        self.control.close()
        os.close(self.parent)


def _tell(asker: socket.socket, number: int) -> None:
    with suppress(OSError):  # it may be gone
        asker.sendall(STATUS.pack(number))


def prepare(heavy: list[str]) -> tuple[list[str], dict[str, str | None]]:
    """Import what is heavy.

    Returns:
        ``sys.path`` without what belongs to this program, and what importing did to the
        environment (None where it removed something).
    """
    own = _entries(os.environ.get("PYTHONPATH", ""))
    path, before = sys.path[1 + len(own) :], dict(os.environ)
    for name in heavy:
        importlib.import_module(name)
    changed = {
        name: os.environ.get(name)
        for name in {*before, *os.environ}
        if before.get(name) != os.environ.get(name)
    }
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"a process of {threads} threads cannot be forked soundly")
    gc.collect()
    gc.freeze()  # else the first collection in a fork would copy every page
    return path, changed


def become(request: dict[str, Any], path: list[str], changed: dict[str, str | None]) -> None:
    """Make of this fork what a new process would be before its first line."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for name, value in changed.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if not request["deaf"]:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _open_streams(bool(os.environ.get("PYTHONUNBUFFERED")))
    _forget_what_was_read()
    words = request["words"]
    first = {"-c": "", "-m": os.getcwd()}.get(words[0], os.path.dirname(os.path.realpath(words[0])))
    own = _entries(os.environ.get("PYTHONPATH", ""))
    sys.path[:] = [first, *dict.fromkeys([*own, *path])]
    sys.orig_argv = [sys.executable, *words]


def _entries(added: str) -> dict[str, None]:
    """What Python makes of PYTHONPATH."""
    return dict.fromkeys(map(os.path.abspath, added.split(os.pathsep) if added else ()))


def _open_streams(unbuffered: bool) -> None:
    """Streams with the buffers that Python would give them here."""
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        old = getattr(sys, name)
        plain = unbuffered and mode == "w"
        buffering = 0 if plain else -1
        binary = open(number, f"{mode}b", buffering=buffering, closefd=False)  # noqa: SIM115
        stream = io.TextIOWrapper(
            binary, encoding=old.encoding, errors=old.errors, newline=None if mode == "r" else "\n",
            line_buffering=name == "stderr" or binary.isatty(), write_through=plain,
        )  # fmt: skip
        stream.mode = mode
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
        if mode == "w":
            atexit.register(old.flush)  # what held on to it at its import


def _forget_what_was_read() -> None:
    """What packages take from the process when they are imported, taken anew."""
    import multiprocessing.process
    import tempfile

    tempfile.tempdir = None
    multiprocessing.process.ORIGINAL_DIR = os.getcwd()
    if "pytorch_lightning" not in sys.modules:
        return
    import lightning_utilities.core.rank_zero as lightning
    import numpy
    import torch
    import torchmetrics.utilities.prints as metrics
    from lightning_fabric.utilities.rank_zero import _get_rank

    numpy.random.seed()
    torch.default_generator.seed()
    lightning.rank_zero_only.rank = _get_rank() or 0
    metrics.rank_zero_only.rank = int(os.environ.get("LOCAL_RANK", 0))


def execute(words: list[str]) -> None:
    """Run ``-c CODE``, ``-m MODULE`` or ``SCRIPT``, with its words, as ``__main__``."""
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy._run_module_as_main(words[1])
        return
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        main.__loader__ = importlib.machinery.BuiltinImporter
        exec(compile(words[1], "<string>", "exec", dont_inherit=True), main.__dict__)
        return
    sys.argv = words
    main.__file__ = os.path.abspath(words[0])
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", main.__file__)
    with io.open_code(main.__file__) as file:
        code = compile(file.read(), main.__file__, "exec", dont_inherit=True)
    exec(code, main.__dict__)


def status_of(words: list[str]) -> int:
    """Execute them; the exit code that Python would end with."""
    try:
        execute(words)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return (stop.code or 0) & 0xFF
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException as error:
        own = error.__traceback__
        error.__traceback__ = own and own.tb_next and own.tb_next.tb_next  # begins with the code
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def end(status: int) -> None:
    """Do what Python does at its end, but for taking all modules apart, which takes long."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.modules["__main__"].__dict__.clear()
    gc.collect()  # what was imported before the fork is not looked at
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError):
            status = 120
    os._exit(status)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests; it ends after them
    server = Server(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
    own_path, imposed = prepare(sys.argv[3:])
    asked = server.serve()
    this = sys.modules["__main__"]  # kept alive
    become(asked, own_path, imposed)
    end(status_of(asked["words"]))

"""Everything that has to be seen on a real GPU, in one command of at most 8 minutes.

Usage: python -m experiments.on_gpu.run --out DIR [--only default,law] [--skip peers] [--minutes 8]
           [--cifar cifar10.tar.xz --weights resnet56_cifar10.safetensors]
       python -m experiments.on_gpu.run --out DIR --smoke      (tiny, on a CPU: does it run at all?)
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from experiments.on_gpu.results import Results, failed
from experiments.timing import Row

ROOT = Path(__file__).parents[2]
BOXES = {  # name: seconds at most; what was left over goes to the last
    "default": 130.0,
    "runs": 110.0,
    "criteria": 40.0,
    "law": 30.0,
    "statistics": 40.0,
    "oneshot": 40.0,
    "slim": 75.0,
    "data": 40.0,
    "finetune": 60.0,
    "datafree": 120.0,
    "peers": 600.0,
}
"""Most important first: an early end loses the least."""
HOMES = {
    "machine": "machine", "default": "runs", "runs": "networks", "criteria": "criteria",
    "law": "law", "statistics": "speed", "oneshot": "speed", "slim": "slim", "data": "data",
    "finetune": "finetune", "datafree": "datafree", "peers": "peers",
}  # fmt: skip
"""The module below ``boxes`` that has a function of the box's name."""
FIRST = "machine"
SMOKE_LIMIT = 300.0
RESERVE = 6.0
"""Seconds at the end for tables and figures."""
LEAST = 5.0
"""Seconds below which a box is not begun."""
PRELOADED = (
    "torch", "torchvision", "pytorch_lightning", "matplotlib.figure", "sklearn.datasets",
    "experiments.timing", "thinet.pruning.prune", "thinet.app.main",
)  # fmt: skip
"""What nearly every box imports: a process that is forked from this one has it for nothing."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = ", ".join(BOXES)
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found")
    parser.add_argument("--only", default="", help=f"boxes, with commas: {names}")
    parser.add_argument("--skip", default="", help="boxes to leave out, with commas")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    parser.add_argument("--smoke", action="store_true", help="everything tiny, on a CPU")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as <name>.tar.xz or folder, for peers")
    parser.add_argument("--weights", type=Path, help="weights of ResNet-56 on CIFAR-10, for peers")
    parser.add_argument("--commit", help="name of the code, where git cannot tell")
    parser.add_argument("--resume", action="store_true", help="keep the cells found in --out")
    parser.add_argument("--fresh", action="store_true", help="a new interpreter for every box")
    parser.add_argument("--box", choices=[FIRST, *BOXES], help="only this one, in this process")
    parser.add_argument("--limit", type=float, default=SMOKE_LIMIT, help="seconds, with --box")
    parser.add_argument("--work", type=Path, help="folder for temporary files, with --box")
    options = parser.parse_args(arguments)
    for name in (*_split(options.only), *_split(options.skip)):
        if name not in BOXES:
            parser.error(f"there is no box {name!r}: choose among {names}")
    if options.resume and options.fresh:
        parser.error("--resume goes with forked processes only, not with --fresh")
    for path in (options.cifar, options.weights):
        if path is not None and not path.exists():
            parser.error(f"{path} does not exist")
    options.out = options.out.absolute()
    return options


def _split(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def enter(
    options: argparse.Namespace, name: str, limit: float, work: Path, known: Sequence[Row] = ()
) -> None:
    """Run a box in this process; an error is kept as one line, and its traceback printed.

    Raises:
        SystemExit: With status 1 if the box fails.
    """
    began = time.monotonic()
    results = Results(options.out)
    try:
        import torch

        from experiments.on_gpu.context import Context, brief

        if options.smoke:
            torch.set_num_threads(1)
        torch.manual_seed(0)
        context = Context(
            device=torch.device("cpu" if options.smoke else "cuda"),
            smoke=options.smoke,
            end=began + limit - max(1.5, 0.06 * limit),
            keep=partial(results.add, name),
            work=work / name,
            weights=options.weights and options.weights.absolute(),
            images=options.cifar is not None,
            known=tuple(known),
        )
        module = importlib.import_module(f"experiments.on_gpu.boxes.{HOMES[name]}")
        getattr(module, name)(context)
    except Exception as error:
        traceback.print_exc()
        results.fail(name, brief(error))
        sys.stderr.flush()
        raise SystemExit(1) from error


@dataclass
class Child:
    """A process of its own group, with all that it starts.

    Attributes:
        process: A ``subprocess.Popen`` or a ``multiprocessing.Process``.
    """

    process: Any

    def wait(self, seconds: float) -> int | None:
        """Its exit status, or None if it still runs after so many seconds."""
        if isinstance(self.process, subprocess.Popen):
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(max(seconds, 0))
            return None
        self.process.join(max(seconds, 0))
        status: int | None = self.process.exitcode
        return status

    def end(self) -> None:
        """Kill what is left of it."""
        pid = self.process.pid
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        if self.wait(0) is None:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)  # before it had a group
            self.wait(5)


def _forked(log: Path, task: Any) -> None:
    """What a forked process does first: a group of its own, signals as usual, its own output."""
    os.setpgid(0, 0)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    task()


def start(
    options: argparse.Namespace, name: str, limit: float, work: Path, known: Sequence[Row] = ()
) -> Child:
    """Begin a box; what it prints is added to ``log.txt``."""
    log = options.out / "log.txt"
    if not options.fresh:
        context = multiprocessing.get_context("fork")
        task = partial(enter, options, name, limit, work, known)
        process = context.Process(target=_forked, args=(log, task))
        process.start()
        return Child(process)
    command = [sys.executable, "-m", "experiments.on_gpu.run", "--box", name, "--out", options.out,
               "--limit", str(limit), "--work", work]  # fmt: skip
    command += ["--smoke"] if options.smoke else []
    for flag in ("cifar", "weights"):
        if getattr(options, flag):
            command += [f"--{flag}", getattr(options, flag).absolute()]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    with open(log, "ab") as file:
        return Child(
            subprocess.Popen(
                [str(word) for word in command], cwd=ROOT, env=environment, process_group=0,
                stdout=file, stderr=file, stdin=subprocess.DEVNULL,
            )
        )  # fmt: skip


def run_box(options: argparse.Namespace, name: str, limit: float, work: Path) -> bool:
    """Run a box to its end or to its limit, and say how it ended.

    Returns:
        Whether it ended by itself and without an error.
    """
    results = Results(options.out)
    before = results.begin(name, limit)
    with open(options.out / "log.txt", "a") as file:
        file.write(f"\n===== {name}, {limit:.0f} s at most =====\n")
    folder = work / name
    folder.mkdir(exist_ok=True)
    began = time.monotonic()
    child = start(options, name, limit, work, before if options.resume else ())
    status, said, error = None, "interrupted", None
    try:
        status = child.wait(limit)
        said = "out of time" if status is None else "ok" if status == 0 else "failed"
        error = {"out of time": f"ended after its {limit:.0f} s", "ok": None}.get(
            said, f"exit status {status}: see log.txt"
        )
    finally:
        child.end()
        results.end(name, said, time.monotonic() - began, error)
        shutil.rmtree(folder, ignore_errors=True)
    box = results.read()["boxes"][name]
    rows = box["rows"]
    note = f", {failed(rows)} of them without a figure" if failed(rows) else ""
    reason = f": {box['error']}" if box["error"] else ""
    print(f"{name}: {said} after {box['seconds']} s, {len(rows)} rows{note}{reason}", flush=True)
    return status == 0


def _meet_machine(options: argparse.Namespace, work: Path) -> None:
    """Find out what the machine is; forked processes that do not get the GPU are done without.

    Raises:
        SystemExit: If there is no GPU.
    """
    if not run_box(options, FIRST, 60.0, work) and not options.fresh:
        options.fresh = True
        if run_box(options, FIRST, 60.0, work):
            print("every box is a new interpreter: a forked one does not get the GPU", flush=True)
    rows = Results(options.out).rows(FIRST)
    if not rows:
        raise SystemExit("no GPU answers here (see log.txt): add --smoke to try this on a CPU.")
    facts = {**rows[0], "processes": "new" if options.fresh else "forked"}
    Results(options.out).about(facts | ({"commit": options.commit} if options.commit else {}))
    print(", ".join(f"{key} {value}" for key, value in rows[0].items()), flush=True)


@contextlib.contextmanager
def _unpacking(options: argparse.Namespace, work: Path) -> Iterator[None]:
    """CIFAR-10 is unpacked and decoded beside the first boxes, by a process of its own."""
    if options.cifar is None:
        yield
        return
    from experiments.on_gpu.images import unpack_into

    process = multiprocessing.get_context("fork").Process(
        target=_forked,
        args=(options.out / "log.txt", partial(unpack_into, options.cifar.absolute(), work)),
    )
    process.start()
    try:
        yield
    finally:
        Child(process).end()


def _interrupted(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the boxes, then write tables and figures."""
    began = time.monotonic()
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    # torch asks the driver's library instead of CUDA, which a process that is forked later could
    # not use any more.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    if options.smoke:
        os.environ["OMP_NUM_THREADS"] = "1"
    if options.box:
        work = options.work or Path(tempfile.mkdtemp())
        if not options.work:
            (work / options.box).mkdir()
            Results(options.out).begin(options.box, options.limit)
        enter(options, options.box, options.limit, work)
        return
    signal.signal(signal.SIGTERM, _interrupted)
    if not options.fresh:
        for module in PRELOADED:
            with contextlib.suppress(ImportError):  # the box that needs it will say so
                importlib.import_module(module)
    end = began + 60 * options.minutes - RESERVE
    chosen = _split(options.only) or list(BOXES)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        _meet_machine(options, work)
        with _unpacking(options, work):
            for name in BOXES:
                if name not in chosen or name in _split(options.skip):
                    continue
                limit = min(SMOKE_LIMIT if options.smoke else BOXES[name], end - time.monotonic())
                if limit < LEAST:
                    Results(options.out).begin(name, 0.0)
                    Results(options.out).end(name, "left out", 0.0, "no time was left")
                    print(f"{name}: left out, no time was left", flush=True)
                    continue
                run_box(options, name, limit, work)
    Results(options.out).about({"seconds": round(time.monotonic() - began, 1)})
    from experiments.on_gpu.report import write

    write(options.out)
    print(f"all done after {time.monotonic() - began:.0f} s: {options.out}", flush=True)


if __name__ == "__main__":
    main()

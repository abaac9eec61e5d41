"""Signals at every moment of a two-process start: who ends, when, with which code, and what next.

Each cell starts a small run in two processes, waits for a moment that can be seen from outside,
sends one signal to the first process, the second or all, and waits until none is left. The command
is then repeated, once for every state that cells left on disk, and its bits are compared with those
of an undisturbed run. Rows are kept after every cell: a study that is stopped goes on.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.run_kills.run import digest, members, start, undisturbed
from experiments.smoke import parse
from thinet.base.files import write_text_atomic

HERE = Path(__file__).parent
COLUMNS = (
    "signal", "target", "moment", "after", "code", "as_documented", "gone_after", "state",
    "same_weights", "same_figures",
)  # fmt: skip
SMALL = (
    "model.build.widths=[4,8]", "model.paper_layers=[features.0,features.3,features.7]",
    "dataset.image_size=8", "dataset.calibration_per_class=2", "trainer.max_steps_per_epoch=2",
    "baseline.epochs=2", "finetune.stage.epochs=1", "finetune.final.epochs=1", "schedule=oneshot",
)  # fmt: skip
SIGNALS = {"SIGTERM": 143, "SIGINT": 130, "SIGKILL": 137}
TARGETS = ("first", "second", "group")
LOST = 2
"""Exit code of the first process when another one was killed."""
PATIENCE = 120.0
NOT_STATE = (".lock", ".running.json", "run.log")


@dataclass(frozen=True)
class Seen:
    """A run from outside: its processes, and what it has printed."""

    first: int
    second: int | None
    text: str


def has_mapped(process: int | None, name: str) -> bool:
    """Whether a process has loaded a library."""
    return name in _read(process, "maps")


def answers(process: int | None) -> bool:
    """Whether a process has a handler for SIGTERM, and does not hold the signal back."""
    status = _read(process, "status")
    caught, held = (re.search(rf"{key}:\s+(\w+)", status) for key in ("SigCgt", "SigBlk"))
    bit = 1 << (signal.SIGTERM - 1)
    return bool(caught and held and int(caught[1], 16) & bit and not int(held[1], 16) & bit)


def sockets(process: int | None) -> int:
    """How many sockets a process has open."""
    try:
        entries = list(Path(f"/proc/{process}/fd").iterdir())
        return sum(os.readlink(entry).startswith("socket:") for entry in entries)
    except OSError:
        return 0


def _read(process: int | None, name: str) -> str:
    try:
        return Path(f"/proc/{process}/{name}").read_text()
    except OSError:
        return ""


MOMENTS: dict[str, Callable[[Seen], bool]] = {
    "the first process exists": lambda seen: True,
    "the first answers signals": lambda seen: answers(seen.first),
    "the first loads torch": lambda seen: has_mapped(seen.first, "libtorch_cpu"),
    "the plan is printed": lambda seen: "parameters" in seen.text,
    "the second exists": lambda seen: seen.second is not None,
    "the second answers signals": lambda seen: answers(seen.second),
    "the second loads torch": lambda seen: has_mapped(seen.second, "libtorch_cpu"),
    "the second loads torchvision": lambda seen: has_mapped(seen.second, "torchvision"),
    "the second calls the first": lambda seen: sockets(seen.second) >= 2,
    "the two are connected": lambda seen: sockets(seen.second) >= 3,
    "training begins": lambda seen: "baseline: training" in seen.text,
    "one epoch is over": lambda seen: "baseline: epoch 1" in seen.text,
}
WITH_SECOND = list(MOMENTS)[4:]


def cells() -> Iterator[tuple[str, str, str]]:
    """Every signal, target and moment; the second process has to exist to be told."""
    for moment in MOMENTS:
        for target in TARGETS:
            if target != "second" or moment in WITH_SECOND:
                for name in SIGNALS:
                    yield name, target, moment


def wanted_code(name: str, target: str) -> int:
    """Exit code of the first process, as a shell shows it and docs/faults.md says."""
    return LOST if (name, target) == ("SIGKILL", "second") else SIGNALS[name]


def second_of(first: int) -> int | None:
    """The process that the first one started for the run."""
    others = (pid for pid in members(first) if "LOCAL_RANK=1\0" in _read(pid, "environ"))
    return min(others, default=None)


def disturb(
    outputs: Path, name: str, target: str, moment: str, more: Sequence[str]
) -> dict[str, Any]:
    """Start, wait for the moment, send the signal, wait for the end of all."""
    log = Path(f"{outputs}.log")
    shutil.rmtree(outputs, ignore_errors=True)
    log.unlink(missing_ok=True)
    began, run = time.monotonic(), start(outputs, 2, more)
    try:
        seen = _wait_for(moment, run, log)
        told, number = time.monotonic(), signal.Signals[name]
        if target == "group":
            os.killpg(run.pid, number)
        elif target == "first":
            os.kill(run.pid, number)
        else:
            assert seen.second is not None
            os.kill(seen.second, number)
        while run.poll() is None or members(run.pid):
            if time.monotonic() - told > PATIENCE:
                raise SystemExit(f"{name} to {target}, {moment}: a process hangs, see {log}")
            time.sleep(0.05)
    finally:
        if members(run.pid):
            os.killpg(run.pid, signal.SIGKILL)
    gone = time.monotonic() - told
    code = run.returncode if run.returncode >= 0 else 128 - run.returncode
    good = code == wanted_code(name, target) and "Traceback" not in log.read_text(errors="replace")
    if not good:
        shutil.copy(log, outputs.with_name(f"{name} {target} {moment}.log"))
    return {
        "signal": name, "target": target, "moment": moment, "after": round(told - began, 1),
        "code": code, "as_documented": good,
        "gone_after": round(gone, 1),
    }  # fmt: skip


def _wait_for(moment: str, run: subprocess.Popen[bytes], log: Path) -> Seen:
    while run.poll() is None:
        seen = Seen(run.pid, second_of(run.pid), log.read_text(errors="replace"))
        if MOMENTS[moment](seen):
            return seen
        time.sleep(0.01)
    raise SystemExit(f"the run ended before this moment: {moment}; see {log}")


def state_of(outputs: Path) -> str:
    """What a run left on disk, by content; without times and random names."""
    found = hashlib.sha256()
    for path in sorted(outputs.rglob("*")):
        if path.is_dir() or path.name in NOT_STATE:
            continue
        content = path.read_bytes()
        if path.name == "state.json":
            state = json.loads(content)
            content = json.dumps({**state, "run_id": None, "seconds": None}).encode()
        found.update(f"{path.relative_to(outputs)}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:12]


def repeat(work: Path, outputs: Path, more: Sequence[str]) -> tuple[str, str, str]:
    """Repeat the command on what a run left, unless another left the same.

    Returns:
        The state that was left, and the digests of weights and figures at the end.
    """
    state = state_of(outputs)
    note = work / f"repeated-{state}.json"
    if not note.exists():
        if start(outputs, 2, more).wait():
            raise SystemExit(f"the repeated command failed: see {outputs}.log")
        write_text_atomic(note, json.dumps(digest(outputs)))
    weights, figures = json.loads(note.read_text())
    return state, weights, figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cells that are missing and print the count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--only", default="", help="cells whose 'signal target moment' matches")
    options = parse(parser, arguments, only="SIGTERM first the first answers")
    # A shell has Ctrl-C ignored in what it starts in the background, and so would the runs.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options.work.mkdir(parents=True, exist_ok=True)
    table = options.out / "results.csv"
    rows: list[dict[str, Any]] = []
    if table.exists():
        with open(table, newline="") as file:
            rows = [dict(row) for row in csv.DictReader(file)]
    done = {(row["signal"], row["target"], row["moment"]) for row in rows}
    whole = undisturbed(options.work, 2, SMALL)["digests"]
    outputs = options.work / "cell"
    for cell in cells():
        if cell in done or not re.search(options.only, " ".join(cell)):
            continue
        row = disturb(outputs, *cell, SMALL)
        state, weights, figures = repeat(options.work, outputs, SMALL)
        same = {"same_weights": weights == whole[0], "same_figures": figures == whole[1]}
        rows.append({**row, "state": state, **same})
        lines = [",".join(COLUMNS), *(",".join(str(one[key]) for key in COLUMNS) for one in rows)]
        write_text_atomic(table, "\n".join(lines) + "\n")
        print(rows[-1], flush=True)
    good = ("as_documented", "same_weights", "same_figures")
    right = [row for row in rows if all(str(row[key]) == "True" for key in good)]
    slowest = max((float(row["gone_after"]) for row in rows), default=0.0)
    print(
        f"{len(right)} of {len(rows)} end with the code and in the bits that they should; all "
        f"processes were gone after {slowest} s at most"
    )


if __name__ == "__main__":
    main()

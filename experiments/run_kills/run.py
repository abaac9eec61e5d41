"""Kill the default run with SIGKILL at random moments, repeat its command, and compare the bits.

Each trial starts anew, is killed once at a moment drawn evenly over the length of an undisturbed
run, and is then repeated until it ends. Rows are kept after every trial: a study that is stopped
goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.smoke import parse
from thinet.base.files import write_text_atomic
from thinet.base.records import JSON, to_json
from thinet.run.result import read_result

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COLUMNS = (
    "processes", "trial", "victim", "killed_after", "of_seconds", "last_line", "others_ended_after",
    "attempts", "same_weights", "same_figures",
)  # fmt: skip
DDP = ("trainer=ddp_cpu", "trainer.devices=2")
PATIENCE = 90.0
SMALL = (
    "model.build.widths=[4,8]", "model.paper_layers=[features.0,features.3,features.7]",
    "dataset.image_size=8", "dataset.calibration_per_class=2", "trainer.max_steps_per_epoch=2",
    "baseline.epochs=1", "finetune.stage.epochs=1", "finetune.final.epochs=1",
)  # fmt: skip
"""Of ``--smoke``: a run of seconds."""


def command(outputs: Path, processes: int, more: Sequence[str]) -> list[str]:
    """The default run, with lines that say where it is."""
    devices = DDP if processes == 2 else ("trainer=cpu",)
    return [
        sys.executable, str(ROOT / "run.py"), *devices, "trainer.progress=lines", *more,
        f"paths.outputs={outputs}",
    ]  # fmt: skip


def start(outputs: Path, processes: int, more: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start it in a process group of its own; what it prints goes to ``<outputs>.log``."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONUNBUFFERED": "1"}
    with open(f"{outputs}.log", "ab") as log:
        return subprocess.Popen(
            command(outputs, processes, more), stdout=log, stderr=log, cwd=ROOT, env=env,
            start_new_session=True,
        )  # fmt: skip


def members(group: int) -> list[int]:
    """Living processes of a group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(int(folder.name))
    return found


def digest(outputs: Path) -> tuple[str, str]:
    """Digests of the slim network's weights, and of every accuracy of the run."""
    (path,) = outputs.glob("*/result.json")
    found = read_result(path)
    parts = (found.reference, found.model or found.reference, *found.steps)
    figures = [_untimed(to_json(part)) for part in parts]
    weights = (path.parent / "model" / "model.safetensors").read_bytes()
    texts = (weights, json.dumps([figures, _untimed(found.details)], sort_keys=True).encode())
    return tuple(hashlib.sha256(text).hexdigest() for text in texts)  # type: ignore[return-value]


def _untimed(row: JSON) -> JSON:
    """Without what a clock or the memory says, or where it lies, at any depth."""
    if isinstance(row, list):
        return [_untimed(one) for one in row]
    if not isinstance(row, dict):
        return row
    timed = ("seconds", "latency_ms", "peak_memory_mb", "folder")
    return {key: _untimed(value) for key, value in row.items() if key not in timed}


def undisturbed(work: Path, processes: int, more: Sequence[str]) -> dict[str, Any]:
    """Length and digests of a run that nobody kills, made once."""
    note = work / f"undisturbed{processes}.json"
    if not note.exists():
        outputs = work / f"undisturbed{processes}"
        shutil.rmtree(outputs, ignore_errors=True)
        began = time.monotonic()
        if start(outputs, processes, more).wait():
            raise SystemExit(f"the undisturbed run failed: see {outputs}.log")
        seconds = time.monotonic() - began
        write_text_atomic(note, json.dumps({"seconds": seconds, "digests": digest(outputs)}))
    found: dict[str, Any] = json.loads(note.read_text())
    return found


def trial(
    work: Path, processes: int, number: int, more: Sequence[str], whole: dict[str, Any]
) -> dict[str, Any]:
    """Start, kill, repeat until it ends."""
    draw = random.Random(f"{processes}-{number}")
    victim = draw.choice(("group", "first", "second")[: 3 if processes == 2 else 2])
    outputs = work / f"trial{processes}-{number:02d}"
    log = Path(f"{outputs}.log")
    length = whole["seconds"]
    while True:
        moment = draw.uniform(0, length)
        shutil.rmtree(outputs, ignore_errors=True)
        log.unlink(missing_ok=True)
        began, run = time.monotonic(), start(outputs, processes, more)
        try:
            run.wait(moment)
        except subprocess.TimeoutExpired:
            victim = _kill(run.pid, victim)
            break
        length = time.monotonic() - began  # it was faster this time, and ended first
    lines = log.read_text(errors="replace").strip().splitlines()
    ended = _wait_for_all(run)
    attempts = 1
    while not list(outputs.glob("*/result.json")) or attempts == 1:
        attempts += 1
        if start(outputs, processes, more).wait() and attempts > 5:
            raise SystemExit(f"trial {number} does not come to its end: see {log}")
    weights, figures = digest(outputs)
    shutil.rmtree(outputs)
    return {
        "processes": processes,
        "trial": number,
        "victim": victim,
        "killed_after": round(moment, 1),
        "of_seconds": round(whole["seconds"], 1),
        "last_line": lines[-1].strip()[:60] if lines else "",
        "others_ended_after": round(ended, 1),
        "attempts": attempts,
        "same_weights": weights == whole["digests"][0],
        "same_figures": figures == whole["digests"][1],
    }


def _kill(group: int, victim: str) -> str:
    """Kill all processes, the first, or another one if there is one yet."""
    others = [pid for pid in members(group) if pid != group]
    if victim == "second" and not others:
        victim = "first"
    if victim == "group":
        os.killpg(group, signal.SIGKILL)
    else:
        os.kill(group if victim == "first" else others[0], signal.SIGKILL)
    return victim


def _wait_for_all(run: subprocess.Popen[bytes]) -> float:
    """Seconds until no process of the group is left."""
    began = time.monotonic()
    while True:
        run.poll()
        if not members(run.pid):
            return time.monotonic() - began
        if time.monotonic() - began > PATIENCE:
            os.killpg(run.pid, signal.SIGKILL)
            raise SystemExit("a process hangs after another one was killed")
        time.sleep(0.1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the trials that are missing and print the count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--trials", type=int, default=25)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("more", nargs="*", help="overrides of the run, for a quick try")
    options = parse(parser, arguments, trials=1, more=list(SMALL))
    options.work.mkdir(parents=True, exist_ok=True)
    table = options.out / f"results_{options.processes}.csv"
    rows: list[dict[str, Any]] = []
    if table.exists():
        with open(table, newline="") as file:
            rows = [dict(row) for row in csv.DictReader(file)]
    done = {int(row["trial"]) for row in rows}
    whole = undisturbed(options.work, options.processes, options.more)
    for number in range(options.trials):
        if number in done:
            continue
        rows.append(trial(options.work, options.processes, number, options.more, whole))
        text = [",".join(COLUMNS)]
        text += [",".join(_cell(row[name]) for name in COLUMNS) for row in rows]
        write_text_atomic(table, "\n".join(text) + "\n")
        print(rows[-1], flush=True)
    same = sum(str(row["same_weights"]) == str(row["same_figures"]) == "True" for row in rows)
    print(f"{same} of {len(rows)} end in the bits and figures of the undisturbed run")


def _cell(value: Any) -> str:
    text = str(value).replace('"', "'")
    return f'"{text}"' if "," in text else text


if __name__ == "__main__":
    main()

"""Kill a sweep of 12 points twice, repeat it, and compare with one that was left alone.

Every preset that runs on one machine, killed in two ways: the whole process group, or the parent
alone, whose workers may live on while the command is repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.smoke import parse

ROOT = Path(__file__).parents[2]
TINY = (
    "model.build.widths=[4,8]", "model.paper_layers=[features.0,features.3,features.7]",
    "dataset.image_size=8", "dataset.calibration_per_class=2", "trainer=cpu",
    "trainer.progress=off", "trainer.max_steps_per_epoch=2", "baseline.epochs=1",
    "finetune.stage.epochs=1", "finetune.final.epochs=1",
)  # fmt: skip
GRID = ("criterion=thinet,weight_sum,apoz,random", "ratio=0.25,0.5,0.75")
TIMES = ("seconds", "latency_ms", "latency_ms_reference", "latency_ms_reduction")
PRESETS = ("grid", "joblib", "submitit_local", "ray")
COLUMNS = (
    "preset", "killed", "points", "finished_at_kill_1", "finished_at_kill_2", "same_table",
    "finished_again", "results_rewritten", "seconds_alone", "seconds_killed",
)  # fmt: skip


def command(preset: str, outputs: Path, grid: tuple[str, ...] = GRID) -> list[str]:
    """The command line of the sweep."""
    run = [sys.executable, str(ROOT / "run.py"), "-m", f"sweep={preset}", *TINY, *grid]
    return [*run, f"paths.outputs={outputs}"]


def start(preset: str, outputs: Path, grid: tuple[str, ...] = GRID) -> subprocess.Popen[bytes]:
    """Start it in a process group of its own; what it prints goes to ``<outputs>.log``."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    with open(f"{outputs}.log", "ab") as log:
        return subprocess.Popen(
            command(preset, outputs, grid), stdout=log, stderr=log, cwd=ROOT, env=env,
            start_new_session=True,
        )  # fmt: skip


def finished(outputs: Path) -> dict[str, int]:
    """The time at which each run that is complete wrote its result."""
    found = {}
    for path in outputs.glob("*/state.json"):
        if json.loads(path.read_text())["status"] == "complete":
            found[path.parent.name] = (path.parent / "result.json").stat().st_mtime_ns
    return found


def table(outputs: Path) -> list[dict[str, str]]:
    """The sweep's table without what a clock says."""
    (path,) = outputs.glob("sweeps/*/sweep.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def times_worked(outputs: Path) -> dict[str, int]:
    """How often each run came to its end by work, by its log; a kill may follow just then."""
    logs = {path.parent.name: path.read_text() for path in outputs.glob("*/run.log")}
    return {name: text.count("accuracies on the test set") - text.count("has been run before")
            for name, text in logs.items()}  # fmt: skip


def kill_at(
    process: subprocess.Popen[bytes], outputs: Path, count: int, way: str
) -> dict[str, int]:
    """Wait for ``count`` finished points and up to a second more, then kill.

    Returns:
        The points finished by then.
    """
    while len(finished(outputs)) < count and process.poll() is None:
        time.sleep(0.05)
    time.sleep(random.random())
    if way == "group":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    return finished(outputs)


def study(
    preset: str, way: str, folder: Path, grid: tuple[str, ...] = GRID, kills: int = 2
) -> dict[str, Any]:
    """One row of the results."""
    alone, killed = folder / f"{preset}-alone", folder / f"{preset}-{way}"
    seconds = 0.0
    if not alone.exists():
        begin = time.monotonic()
        start(preset, alone, grid).wait()
        seconds = time.monotonic() - begin
    total = len(table(alone))
    begin = time.monotonic()
    done: dict[str, int] = {}
    counts = []
    for part in (0.3, 0.6)[:kills]:
        found = kill_at(start(preset, killed, grid), killed, max(1, int(part * total)), way)
        done = {**found, **done}  # the time of the first result of each
        counts.append(len(found))
    code = start(preset, killed, grid).wait()
    if code:
        raise SystemExit(f"{preset} {way}: exit code {code}; see {killed}.log")
    last = finished(killed)
    return {
        "preset": preset, "killed": way, "points": total,
        "finished_at_kill_1": counts[0], "finished_at_kill_2": counts[-1],
        "same_table": table(killed) == table(alone),
        "finished_again": sum(times > 1 for times in times_worked(killed).values()),
        "results_rewritten": sum(last[name] != when for name, when in done.items()),
        "seconds_alone": round(seconds) or "", "seconds_killed": round(time.monotonic() - begin),
    }  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    """Run all studies that are asked for and write the table anew after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=PRESETS, choices=PRESETS)
    parser.add_argument("--ways", nargs="+", default=("group", "parent"))
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.csv"))
    parser.set_defaults(grid=GRID, kills=2)
    arguments = parse(parser, words, presets=["joblib"], ways=["parent"],
                      grid=("seed=0,1",), kills=1)  # fmt: skip
    random.seed(0)
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for preset in arguments.presets:
        for way in arguments.ways:
            rows.append(study(preset, way, folder, arguments.grid, arguments.kills))
            print(rows[-1], flush=True)
            with open(arguments.out, "w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    if arguments.folder is None:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

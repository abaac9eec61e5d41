"""``python run.py`` as a process of its own, and what it leaves."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.on_gpu.context import Context
from experiments.timing import Row
from thinet.base.records import from_json
from thinet.report.sections.pruning import PruningDetails
from thinet.run.result import read_result

ROOT = Path(__file__).parents[3]
QUICK = (
    "trainer.max_steps_per_epoch=2", "dataset.image_size=8", "dataset.recipe.baseline_epochs=1",
    "dataset.recipe.baseline_warmup=0", "dataset.recipe.final_epochs=1",
    "layers=[features.0,features.3]",
)  # fmt: skip
"""What makes the default run tiny."""


@dataclass
class Command:
    """A command in the background.

    Attributes:
        outputs: Its folder of runs.
        overrides: Its words.
        process: Itself.
        began: When, on ``time.monotonic()``'s clock.
        ended: When it was seen to have ended.
    """

    outputs: Path
    overrides: list[str]
    process: subprocess.Popen[bytes]
    began: float
    ended: float | None = None

    @property
    def log(self) -> Path:
        """What it prints."""
        return Path(f"{self.outputs}.log")

    def poll(self) -> bool:
        """Whether it has ended."""
        if self.process.poll() is None:
            return False
        self.ended = self.ended or time.monotonic()
        return True

    def lines(self) -> list[str]:
        """What it has printed so far."""
        return self.log.read_text(errors="replace").strip().splitlines() or [""]


def start(context: Context, name: str, overrides: Sequence[str]) -> Command:
    """Begin ``python run.py`` with these words and an output folder that ``name`` names.

    It stays in the group of processes of this box, so it ends with it.
    """
    outputs = context.work / name
    words = [
        *(["trainer=cpu"] if context.smoke else ["trainer=auto"]), "trainer.progress=lines",
        *overrides, f"paths.outputs={outputs}",
    ]  # fmt: skip
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {
        **os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "WANDB_MODE": "offline",
    }  # fmt: skip
    outputs.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{outputs}.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *words], cwd=ROOT, env=environment,
            stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    return Command(outputs, words, process, time.monotonic())


def wait(context: Context, commands: Sequence[Command]) -> None:
    """Wait until all have ended, or the time is over: then what still runs is killed."""
    while sum(command.poll() for command in commands) < len(commands):  # each is asked
        if context.left() < 1:
            for command in commands:
                if not command.poll():
                    command.process.kill()
                    command.process.wait()
            break
        time.sleep(0.05)


def outcome(command: Command) -> Row:
    """A row: how it ended, and the figures of its ``result.json`` if there is one."""
    status = command.process.poll()
    row: Row = {
        "exit": status,
        "seconds": round((command.ended or time.monotonic()) - command.began, 1),
    }
    found = sorted(command.outputs.glob("*/result.json"))
    if found:
        result = read_result(found[0])
        pruned = result.details.get("pruning")  # other methods have none
        before = from_json(PruningDetails, pruned).before_finetuning if pruned else None
        plain, again = (before.plain, before.recalibrated) if before else (None, None)
        full, model = result.reference, result.final
        row |= {
            "seconds_inside": round(result.run.seconds, 1),
            "device": str(result.environment["device"]),
            "baseline_top1": full.top1,
            "cut_top1": plain and plain.top1,
            "recalibrated_top1": again and again.top1,
            "slim_top1": model.top1,
            "flops_ratio": full.flops / model.flops,
            "latency_ratio": (full.latency_ms or 0) / (model.latency_ms or math.nan),
            "peak_memory_mb": max(step.peak_memory_mb or 0 for step in result.steps),
        }
    if status or not found:
        lines = command.lines()
        row["error"] = lines[-1].strip()[:300] or "it printed nothing"
        print("\n".join([" ".join(command.overrides), *lines[-25:]]), flush=True)
    return row

"""Learning without data: whole commands, and what an iteration of the paper's CIFAR-10 costs."""

from __future__ import annotations

import argparse
from functools import partial

from experiments.datafree_speed.run import CASES, LARGE, PAPER_ITERATIONS, Case, measure
from experiments.on_gpu.boxes.commands import outcome, start, wait
from experiments.on_gpu.context import Context
from experiments.timing import Row
from thinet.engine.log_levels import silence_lightning

COMMANDS = (
    ("method=datafree", "32-true"), ("method=datafree", "bf16-mixed"),
    ("method=datafree", "16-mixed"), ("experiment=prune_datafree", "bf16-mixed"),
)  # fmt: skip
TINY = (
    "model.build.widths=[4,8]", "teacher.build.widths=[6,8]", "dataset.image_size=8",
    "baseline.epochs=1", "synthesis.course.epochs=1", "synthesis.course.iterations=2",
    "synthesis.course.batch_size=16", "synthesis.drawing.width=4",
)  # fmt: skip


def datafree(context: Context) -> None:
    """The paper's iteration first, with the card to itself; then all commands at once."""
    silence_lightning()
    cases = {"tiny": TINY_CASE} if context.smoke else {**LARGE, **CASES}
    for name, case in cases.items():
        context.cell({"networks": name}, partial(_iteration, context, name, case), needs=20)
    words = list(TINY) if context.smoke else []
    commands = {}
    for what, precision in COMMANDS[1:2] if context.smoke else COMMANDS:
        name = f"{what.partition('=')[2]}_{precision}"
        more = [what, f"trainer.precision={precision}", *words]
        commands[what, precision] = start(context, name, more)
    wait(context, list(commands.values()))
    for (what, precision), command in commands.items():
        row: Row = {"command": what, "precision": precision, "at_once": len(commands)}
        context.keep({**row, **outcome(command)})


VGG = "thinet.models.small_vgg.vgg_small"
TINY_CASE = Case((VGG, {"widths": [4, 8]}), (VGG, {"widths": [4, 8]}), 4, 16, 1.0)


def _iteration(context: Context, name: str, case: Case) -> Row:
    """An iteration through the engine and by hand, and what the paper's course would take."""
    rounds, steps = (1, 3) if context.smoke else (5, 12)
    options = argparse.Namespace(device=str(context.device), steps=steps, rounds=rounds)
    row, _ = measure(name, case, options)
    if name in LARGE:
        row["hours_of_the_paper"] = float(row["seconds"]) * PAPER_ITERATIONS / 3600
    return row

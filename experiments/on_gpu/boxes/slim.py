"""Does a slim network run as much faster as it needs fewer FLOPs?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from experiments.on_gpu.boxes.criteria import tf32
from experiments.on_gpu.context import Context
from experiments.slim_speed.run import measure
from experiments.slim_speed.variants import SUBJECTS, Cell, Subject
from experiments.timing import Row
from thinet.models.small_vgg import vgg_small

NETWORKS = ("resnet50", "vgg16", "vgg16_gap")
BATCHES = ((64, "forward"), (64, "both"), (1, "forward"), (256, "forward"), (256, "both"))
LAYOUT = "channels_last"


def slim(context: Context) -> None:
    """Float32 as it comes (TF32 convolutions) and autocast to bfloat16 in ``channels_last``."""
    names: tuple[str, ...] = NETWORKS
    if context.smoke:
        SUBJECTS["tiny"] = Subject("tiny", _tiny)
        names = ("tiny",)
    for name in names:
        for cell, arithmetic in _cells(name, context.smoke):
            _measure(context, cell, arithmetic)
    if not context.smoke:
        _measure(context, Cell("vgg16_gap", 64, layout=LAYOUT, mode="compile"), "bf16-mixed", 25)


def _tiny(num_classes: int, image_size: int) -> nn.Module:
    return vgg_small(num_classes, image_size, widths=(4, 8))


def _cells(name: str, smoke: bool) -> Iterator[tuple[Cell, str]]:
    batches = ((2, "forward"), (2, "both")) if smoke else BATCHES
    for batch, kind in batches:
        yield Cell(name, batch, kind), "float32"
        yield Cell(name, batch, kind, LAYOUT), "bf16-mixed"
    if not smoke:
        yield Cell(name, 64, "both"), "float32, no TF32"
        yield Cell(name, 64, "both", LAYOUT), "float32"


def _measure(context: Context, cell: Cell, arithmetic: str, needs: float = 3) -> None:
    """A row: times faster, times fewer FLOPs, and their ratio."""
    key: Row = {"network": cell.subject, "arithmetic": arithmetic, "batch": cell.batch,
                "work": cell.work, "layout": cell.layout, "mode": cell.mode}  # fmt: skip
    size, rounds, patience = (8, 1, 0.0) if context.smoke else (224, 30, 0.5)

    def task() -> Row:
        # Casts are made anew in each pass, as in a training step of its own.
        inside: Any = nullcontext()
        if arithmetic == "bf16-mixed":
            inside = torch.autocast(context.device.type, torch.bfloat16, cache_enabled=False)
        with tf32(convolutions=False if "no TF32" in arithmetic else None), inside:
            found = measure(cell, size, context.device, rounds, patience)
        return {name: found[name] for name in
                ("flops_ratio", "speed_up", "speed_up_spread", "share", "rounds")}  # fmt: skip

    context.cell(key, task, needs)

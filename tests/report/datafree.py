"""What ``method=datafree`` leaves, with numbers that can be followed by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.report.conftest import FLOPS, PARAMS, make, measurement
from thinet.base.records import to_json
from thinet.report.sections.synthesis import Control, EpochRow, SynthesisDetails, save_grid
from thinet.run.result import Result, StepRecord

CLASSES = ("zero", "one", "two", "three")
COUNTS = (10, 20, 30, 4)
EPOCHS = 30
TOP1 = (0.8, 0.9, 0.85)
"""Of the last three epochs: a tenth of thirty."""


def row(epoch: int, top1: float | None = None, **changes: Any) -> EpochRow:
    """Each figure follows from the number of the epoch."""
    if top1 is None:
        top1 = TOP1[epoch - EPOCHS - 1] if epoch > EPOCHS - 3 else 0.02 * epoch
    figures = {
        "train/lr_loss": 0.1, "val/top1": top1, "val/top5": 1.0, "train/one_hot": 1 / epoch,
        "train/activation": -0.01 * epoch, "train/entropy": -0.6 + 0.3 / epoch,
        "train/batchnorm": 5 / epoch, "train/generator": 9 / epoch, "train/loss": 2 / epoch,
        "train/agreement": 1 - 0.5 / epoch,
    }  # fmt: skip
    return replace(EpochRow(epoch, figures, COUNTS, 0.7), **changes)


def without_images(rows: tuple[EpochRow, ...]) -> tuple[EpochRow, ...]:
    """The same, of a data set that has none, so that no accuracy is known."""
    return tuple(
        replace(one, figures={k: v for k, v in one.figures.items() if not k.startswith("val/")})
        for one in rows
    )


def details(**changes: Any) -> SynthesisDetails:
    """Of thirty epochs; ``changes`` are fields."""
    on_noise = measurement(0.55, FLOPS // 4, PARAMS // 4)
    known: dict[str, Any] = {
        "teacher": "resnet34", "student": "resnet18", "mode": "together",
        "weights": {"one_hot": 1.0, "activation": 0.1, "entropy": 5.0, "batchnorm": 2.0},
        "base": 10.0, "entropy_reduction": "sum", "activation_reduction": "mean", "learn": "kl",
        "temperature": 4.0, "iterations": 1200, "images": 307_200, "generator_parameters": 221_315,
        "epochs": tuple(row(k) for k in range(1, EPOCHS + 1)),
        "controls": (Control("noise", on_noise),), "alarms": (), "classes": CLASSES,
    }  # fmt: skip
    return SynthesisDetails(**{**known, **changes})


def datafree(found: SynthesisDetails | None = None, **changes: Any) -> Result:
    """A student that was taught on drawn images beside its teacher."""
    found = found or details()
    steps = [StepRecord(0, "noise", 9.0, EPOCHS, figures={"top1_noise": 0.545})]
    steps.append(StepRecord(1, "generator and student", 61.0, EPOCHS, figures={"top1": TOP1[-1]}))
    known: dict[str, Any] = {
        "reference": measurement(0.95), "reference_is": "teacher",
        "model": measurement(0.86, FLOPS // 4, PARAMS // 4), "steps": tuple(steps),
        "settings": {"synthesis": "default", "teacher": "resnet34"}, "network": "resnet18",
        "details": {"synthesis": to_json(found)},
    }  # fmt: skip
    return make("datafree", **{**known, **changes})


def draw_pictures(folder: Path, epochs: int = EPOCHS, classes: int = 4) -> Path:
    """What a run leaves of pictures, in its folder of figures."""
    random = np.random.default_rng(0)
    for k in range(1, epochs + 1):
        tiles = random.integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
        save_grid(tiles, folder / "generated" / f"epoch_{k:03d}.png", 4)
    for number in range(classes):
        tiles = random.integers(0, 255, (number + 1, 8, 8, 3), dtype=np.uint8)
        save_grid(tiles, folder / "generated" / f"class_{number}.png", 4)
    return folder

"""temp"""

from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from thinet.run.result import Measurement

KEY = "synthesis"


@dataclass(frozen=True)
class EpochRow:
    epoch: int
    figures: dict[str, float]
    classes: tuple[int, ...]
    spread: float


@dataclass(frozen=True)
class Control:
    name: str
    measurement: Measurement


@dataclass(frozen=True)
class SynthesisDetails:
    teacher: str
    student: str
    mode: str
    weights: dict[str, float]
    base: float
    entropy_reduction: str
    activation_reduction: str
    learn: str
    temperature: float
    iterations: int
    images: int
    generator_parameters: int
    epochs: tuple[EpochRow, ...]
    controls: tuple[Control, ...]
    alarms: tuple[str, ...]
    classes: tuple[str, ...]


def save_grid(images: Any, path: Path, columns: int) -> None:
    from PIL import Image
    import numpy as np

    a = np.asarray(images)
    rows = -(-len(a) // columns)
    h, w = a.shape[1:3]
    out = np.zeros((rows * h, columns * w, 3), np.uint8)
    for i, one in enumerate(a):
        r, c = divmod(i, columns)
        out[r * h : (r + 1) * h, c * w : (c + 1) * w] = one
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(out).resize((columns * w * 2, rows * h * 2), 0).save(path)

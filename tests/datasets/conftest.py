from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image


def jpeg(seed: int, size: tuple[int, int] = (8, 8)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[Mapping[str, int]], Path]:
    """Writes ``{"train/cat": 3, ...}`` as folders with that many different tiny JPEGs."""

    def make(folders: Mapping[str, int]) -> Path:
        root = tmp_path / "set"
        seed = 0
        for name, count in folders.items():
            folder = root / name
            folder.mkdir(parents=True)
            for number in range(count):
                seed += 1
                (folder / f"{number:04}.jpg").write_bytes(jpeg(seed))
        return root

    return make


@pytest.fixture
def on_rank() -> Callable[..., SimpleNamespace]:
    """What a data module asks its trainer for."""

    def make(rank: int = 0, world: int = 1, epoch: int = 0) -> SimpleNamespace:
        return SimpleNamespace(global_rank=rank, world_size=world, current_epoch=epoch)

    return make

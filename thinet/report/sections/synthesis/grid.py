"""Pictures of generated images, written while a generator is trained."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinet.base.files import write_bytes_atomic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GAP, WIDEST, LARGEST = 2, 1280, 4
"""Pixels between images, of a picture's width at most, and of one pixel of an image."""
PAPER = 255


def save_grid(images: Any, path: str | Path, columns: int) -> Path:
    """Write images as one picture, row by row, atomically.

    Small images are enlarged by a whole number, so that each of their pixels is a square; those
    that would make a picture too wide are reduced.

    Args:
        images: ``(N, H, W, 3)`` of uint8, or what ``numpy.asarray`` makes that of.
        path: Of the PNG file.
        columns: Images in a row; fewer images make a picture of fewer columns.

    Raises:
        ThinetError: If the file cannot be written.
        ValueError: If there are no images, or they are of another kind.
    """
    import numpy as np

    tiles = np.asarray(images)
    if tiles.ndim != 4 or tiles.shape[-1] != 3 or tiles.dtype != np.uint8 or not tiles.size:
        raise ValueError(f"images of {tiles.dtype} {tiles.shape}: they are (N, H, W, 3) of uint8")
    return write_bytes_atomic(path, _png(_composed(tiles, min(columns, len(tiles)), columns)))


def _composed(tiles: NDArray[np.uint8], columns: int, most: int) -> NDArray[np.uint8]:
    """A grid; ``most`` columns decide on the scale, so that pictures of one folder share it."""
    import numpy as np

    tiles = _scaled(tiles, (WIDEST - GAP) // most - GAP)
    count, height, width, _ = tiles.shape
    rows = -(-count // columns)
    found = np.full(
        (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), PAPER, np.uint8
    )
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        found[top : top + height, left : left + width] = tile
    return found


def _scaled(tiles: NDArray[np.uint8], room: int) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    height, width = tiles.shape[1:3]
    if width <= room:
        factor = min(room // width, LARGEST)
        return tiles.repeat(factor, axis=1).repeat(factor, axis=2)
    size = (max(room, 1), max(round(height * room / width), 1))
    reduced = [
        np.asarray(Image.fromarray(tile).resize(size, Image.Resampling.BOX)) for tile in tiles
    ]
    return np.stack(reduced)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return file.getvalue()

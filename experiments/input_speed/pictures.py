"""Generated JPEGs with the size, and about the number of bytes, of ImageNet's."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((500, 375), (500, 333), (375, 500), (500, 375))
"""Width and height in pixels, by turns; ImageNet's are 500x375 most often."""
QUALITY = 90
FALL = 1.2
"""Amplitude falls as frequency to this power: photographs have about 1."""
CLASSES = ("first", "second")


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """Noise that is strong at low frequencies, alike in all channels, with grain on top."""
    rng = np.random.default_rng(seed)
    width, height = size
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    radius[0, 0] = 1 / max(size)
    shared, own = (rng.standard_normal((count, height, width)) for count in (1, 3))
    spectrum = np.fft.rfft2(shared + 0.3 * own) / radius**FALL
    smooth = np.fft.irfft2(spectrum, s=(height, width))
    smooth /= smooth.std()
    grain = 4.0 * rng.standard_normal((1, height, width))
    pixels = np.clip(115 + 55 * smooth + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def jpeg(seed: int, size: tuple[int, int]) -> bytes:
    """A picture as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    picture(seed, size).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def write_tree(root: Path, train: int, test: int, scale: float = 1.0) -> float:
    """Write ``train`` and ``test`` pictures of two classes as a folder data set.

    Args:
        root: Where ``train/<class>`` and ``test/<class>`` go.
        train: Training pictures.
        test: Test pictures.
        scale: Factor for both sides of every picture.

    Returns:
        Mean bytes of a file.
    """
    total, seed = 0, 0
    for part, count in (("train", train), ("test", test)):
        for number in range(count):
            folder = root / part / CLASSES[number % len(CLASSES)]
            folder.mkdir(parents=True, exist_ok=True)
            width, height = SIZES[number // len(CLASSES) % len(SIZES)]
            content = jpeg(seed, (round(scale * width), round(scale * height)))
            (folder / f"{number:05}.JPEG").write_bytes(content)
            total, seed = total + len(content), seed + 1
    return total / max(seed, 1)

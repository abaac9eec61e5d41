"""Images for the boxes: generated JPEGs in class folders, and CIFAR-10 from an archive."""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from experiments.cifar import Data, Images, split
from experiments.input_speed.pictures import jpeg

COLOURS = ((200, 60, 60), (60, 190, 60), (60, 60, 200), (190, 180, 60))
"""A tint a class, so that there is something to learn."""
READY, FAILED = "cifar.pt", "cifar.failed"


def write_classes(root: Path, train: int, test: int, side: int) -> None:
    """Write ``train`` and ``test`` square JPEGs of ``side`` pixels for each of four classes."""
    seed = 0
    for part, count in (("train", train), ("test", test)):
        for label, colour in enumerate(COLOURS):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            tint = Image.new("RGB", (side, side), colour)
            for number in range(count):
                picture = Image.open(io.BytesIO(jpeg(seed, (side, side)))).convert("RGB")
                Image.blend(picture, tint, 0.35).save(folder / f"{number:04}.jpg", quality=90)
                seed += 1


def multiply(folder: Path, times: int) -> None:
    """Copy every picture below ``folder`` until there are ``times`` as many: quicker than more."""
    for path in sorted(folder.rglob("*.JPEG")):
        content = path.read_bytes()
        for number in range(1, times):
            path.with_name(f"{path.stem}_{number:03}{path.suffix}").write_bytes(content)


def unpack_into(source: Path, work: Path) -> None:
    """Unpack and decode CIFAR-10, and leave it as tensors in ``work`` for :func:`wait_for`."""
    try:
        torch.set_num_threads(1)
        root = source if source.is_dir() else _unpacked(source, work)
        parts = {name: _read(root / name) for name in ("train", "test")}
        partial = work / f".{READY}"
        torch.save(parts, partial)
        partial.rename(work / READY)
    except Exception as error:
        traceback.print_exc()
        (work / FAILED).write_text(f"{type(error).__name__}: {error}")


def _unpacked(archive: Path, work: Path) -> Path:
    """The folder with ``train`` and ``test`` that an archive holds."""
    folder = work / "cifar"
    folder.mkdir()
    try:  # tar unpacks beside decompression, thrice as fast
        subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
    except (OSError, subprocess.SubprocessError):
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    found = [path.parent for path in [folder / "train", *folder.glob("*/train")] if path.is_dir()]
    if not found:
        raise ValueError(f"{archive} holds no folder train")
    return found[0]


def _read(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All images of a part in the order of classes and names, as ``experiments.cifar`` reads them.

    Several processes share the work, since there is no time.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from experiments.timing import default_threads
    from thinet.datasets.layout import class_folders, list_part

    files = list_part(folder, class_folders(folder))
    count = len(files)
    workers = max(1, min(6, default_threads() - 2, count // 500))
    bounds = np.linspace(0, count, 4 * workers + 1).astype(int)
    spans = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
    with ProcessPoolExecutor(workers, get_context("fork")) as pool:
        pieces = list(pool.map(_decode, [files] * len(spans), spans))
    pixels = torch.from_numpy(np.concatenate([piece for piece in pieces if len(piece)]))
    return pixels.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(np.asarray(files.labels))


def _decode(files: object, span: tuple[int, int]) -> np.ndarray:
    images = [np.asarray(files.load(number)) for number in range(*span)]  # type: ignore[attr-defined]
    return np.stack(images) if images else np.zeros((0, 1, 1, 3), np.uint8)


def wait_for(work: Path, seconds: float) -> Data:
    """What :func:`unpack_into` leaves, split as the CPU studies split it.

    Raises:
        ValueError: If it failed.
        TimeoutError: If it is not there in time.
    """
    end = time.monotonic() + seconds
    while not (work / READY).exists():
        if (work / FAILED).exists():
            raise ValueError(f"CIFAR-10 cannot be read: {(work / FAILED).read_text()}")
        if time.monotonic() > end:
            raise TimeoutError("CIFAR-10 was not unpacked in time")
        time.sleep(0.1)
    parts = torch.load(work / READY, weights_only=True)
    return split(Images(*parts["train"]), Images(*parts["test"]))


def noise(count: int) -> Data:
    """Noise instead of images, to see that all runs."""
    generator = torch.Generator().manual_seed(0)

    def part(size: int) -> Images:
        pixels = torch.randint(0, 256, (size, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return Images(pixels, torch.randint(0, 10, (size,), generator=generator))

    return split(part(2 * count), part(count), validation=count)

"""Images for the boxes: generated JPEGs in class folders, and CIFAR-10 from an archive."""

from __future__ import annotations

import io
import tarfile
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from experiments.cifar import VALIDATION, Data, Images, split
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
    """Decode CIFAR-10, and leave it as tensors in ``work`` for :func:`wait_for`."""
    try:
        torch.set_num_threads(1)
        files = _read_folder(source) if source.is_dir() else _read_archive(source)
        parts = {name: _decode(files, name) for name in ("train", "test")}
        partial = work / f".{READY}"
        torch.save(parts, partial)
        partial.rename(work / READY)
    except Exception as error:
        traceback.print_exc()
        (work / FAILED).write_text(f"{type(error).__name__}: {error}")


Files = dict[tuple[str, str, str], bytes]
"""Part, class and name of each file, and what it holds."""


def _read_archive(archive: Path) -> Files:
    """The files of an archive with ``train/<class>/*`` and ``test/<class>/*``, perhaps below one
    folder. Nothing is written: 60,000 small files take longer to remove than to decode.
    """
    found: Files = {}
    with tarfile.open(archive) as members:
        for member in members:
            place = Path(member.name).parts[-3:]
            content = members.extractfile(member) if member.isfile() else None
            if content is not None and len(place) == 3:
                found[place] = content.read()  # type: ignore[index]
    return found


def _read_folder(folder: Path) -> Files:
    paths = [path for part in ("train", "test") for path in (folder / part).glob("*/*")]
    return {path.parts[-3:]: path.read_bytes() for path in paths}  # type: ignore[misc]


def _decode(files: Files, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and labels of a part in the order of classes and names, as ``experiments.cifar``."""
    places = sorted(place for place in files if place[0] == part)
    if not places:
        raise ValueError(f"there are no images {part}/<class>/<name>")
    classes = sorted({place[1] for place in places})
    images = [np.asarray(Image.open(io.BytesIO(files[one])).convert("RGB")) for one in places]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.tensor([classes.index(place[1]) for place in places])


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
    train = Images(*parts["train"])
    return split(train, Images(*parts["test"]), min(VALIDATION, len(train) // 9))

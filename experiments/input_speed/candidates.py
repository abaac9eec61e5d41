"""Which library to decode and resize with: images per second in one process, and other pixels.

Usage: python -m experiments.input_speed.candidates     (what is not installed is left out)
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from experiments.input_speed.pictures import write_tree
from experiments.timing import Row, markdown, ratio, spread, take_turns, threads
from thinet.datasets.reading import read_image
from thinet.datasets.transforms import Preprocessing

Load = Callable[[str], Any]
"""From a file to what the transform takes, or, with a resize of its own, to its result."""
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def tensor(array: np.ndarray) -> torch.Tensor:
    """(H, W, 3) as (3, H, W), lying as before."""
    return torch.from_numpy(array).permute(2, 0, 1)


def read_torchcodec(module: Any) -> Load:
    return lambda path: module.decode_jpeg(Path(path).read_bytes())


def read_torchvision(module: Any) -> Load:
    warnings.filterwarnings("ignore", message="The image decoding and encoding")
    return lambda path: module.decode_image(path, mode="RGB")


def read_simplejpeg(module: Any) -> Load:
    return lambda path: tensor(module.decode_jpeg(Path(path).read_bytes()))


def read_simplejpeg_fast(module: Any) -> Load:
    return lambda path: tensor(
        module.decode_jpeg(Path(path).read_bytes(), fastdct=True, fastupsample=True)
    )


def read_opencv(module: Any) -> Load:
    module.setNumThreads(1)
    how = module.IMREAD_COLOR_RGB | module.IMREAD_IGNORE_ORIENTATION
    return lambda path: tensor(module.imread(path, how))


def read_imagecodecs(module: Any) -> Load:
    return lambda path: tensor(module.jpeg8_decode(Path(path).read_bytes()))


CANDIDATES = (  # name, what to import, package, how to read, licence
    ("Pillow, tensor resize", "PIL.Image", "pillow", None, "MIT-CMU"),
    ("TorchCodec", "torchcodec.decoders", "torchcodec", read_torchcodec, "BSD-3"),
    ("torchvision.io (deprecated)", "torchvision.io", "torchvision", read_torchvision, "BSD-3"),
    ("simplejpeg", "simplejpeg", "simplejpeg", read_simplejpeg, "MIT"),
    ("simplejpeg, coarse DCT", "simplejpeg", "simplejpeg", read_simplejpeg_fast, "MIT"),
    ("OpenCV", "cv2", "opencv-python-headless", read_opencv, "Apache-2"),
    ("imagecodecs", "imagecodecs", "imagecodecs", read_imagecodecs, "BSD-3"),
)  # fmt: skip


def candidates() -> dict[str, tuple[Load, str, str]]:
    """Reader, version and licence of what can be imported here."""
    found: dict[str, tuple[Load, str, str]] = {"Pillow": (read_image, version("pillow"), "MIT-CMU")}
    for name, module, package, make, licence in CANDIDATES:
        try:
            loaded = importlib.import_module(module)
            load = make(loaded) if make else lambda path: tensor(np.array(read_image(path)))
            found[name] = load, version(package), licence
        except Exception as error:  # a library that does not load here is no candidate
            print(f"{name} is left out: {type(error).__name__} {str(error)[:80]}")
    return found


def differ(load: Load, transform: v2.Compose, files: list[str]) -> float:
    """Mean absolute difference to Pillow, in grey levels."""
    gaps = [(transform(load(f)) - transform(read_image(f))).abs().mean().item() for f in files]
    return 255 * statistics.mean(gaps)


def measure(
    found: Mapping[str, tuple[Load, str, str]], files: list[str], size: int, rounds: int
) -> list[Row]:
    """Images per second of decoding alone and of decoding, resizing, cropping and scaling."""
    whole = Preprocessing(size, "keep", **PLAIN).evaluation()

    def task(load: Load, transform: Callable[[Any], Any]) -> Callable[[], object]:
        return lambda: [transform(load(file)) for file in files]

    kinds: dict[str, Callable[[Any], Any]] = {"decode": lambda image: image, "all": whole}
    times = {
        kind: take_turns({name: task(x[0], how) for name, x in found.items()}, rounds)
        for kind, how in kinds.items()
    }
    return [
        {
            "library": name, "version": release, "licence": licence,
            "decode": len(files) / statistics.median(times["decode"][name]),
            "all": len(files) / statistics.median(times["all"][name]),
            "over_pil": ratio(times["all"], "Pillow", name),
            "spread": spread(times["all"], "Pillow", name),
            "differs": differ(load, whole, files),
        }
        for name, (load, release, licence) in found.items()
    ]  # fmt: skip


COLUMNS = {
    "library": "library", "version": "version", "licence": "licence",
    "decode": "decode alone, images/s|.0f", "all": "whole transform, images/s|.0f",
    "over_pil": "times Pillow|.2f", "spread": "±|.2f", "differs": "grey levels off|.4f",
}  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--scale", type=float, default=1.0, help="of the generated pictures")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, threads(1):
        size = write_tree(Path(folder), options.images, 0, options.scale)
        files = sorted(str(path) for path in Path(folder).rglob("*.JPEG"))
        with Image.open(files[0]) as first:
            print(f"{len(files)} files such as {first.size}, {size / 1000:.0f} kB on average\n")
        print(markdown(measure(candidates(), files, options.size, options.rounds), COLUMNS))


if __name__ == "__main__":
    main()

"""What the studies on CIFAR-10 share: images in memory, splits, networks, the engine's settings.

The images are read from a folder ``train/<class>/*`` and ``test/<class>/*``. Where they are JPEG
files they are lossy copies, and results are those of "the JPEG copy of CIFAR-10".
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.smoke import parse
from thinet.base.files import write_text_atomic
from thinet.base.seeding import derive_seed
from thinet.datasets.images import TensorImages
from thinet.datasets.layout import class_folders, list_part
from thinet.datasets.module import ImageData, Parts
from thinet.datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
from thinet.engine.engine import Engine
from thinet.engine.log_levels import silence_lightning
from thinet.engine.settings import Devices, Training
from thinet.models import build
from thinet.models.cifar_resnet import CifarResNet
from thinet.models.weights import load_weights
from thinet.pruning.stages import Phase
from thinet.surgery import recalibrate_

BUILDERS = "thinet.models.cifar_resnet", "thinet.models.small_vgg"
WIDTH = 0.25
"""Of ``vgg16_gap``: its filters, over the paper's. A quarter fits two cores."""
BATCH = 32
"""Images a forward pass: activations stay in the cache of one core."""
OPTIMIZER = partial(torch.optim.SGD, lr=1.0, momentum=0.9, nesterov=True, weight_decay=5e-4)
VALIDATION = 5_000
"""Training images that validate; the same ones whatever the seed."""


@dataclass(frozen=True)
class Images:
    """Images and labels.

    Attributes:
        pixels: uint8 ``(N, 3, H, W)``.
        labels: int64 ``(N,)``.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, which: Tensor) -> Images:
        """Some of them."""
        return Images(self.pixels[which], self.labels[which])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All of them in order, normalised."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield normalise(self.pixels[part]), self.labels[part]


@dataclass(frozen=True)
class Data:
    """The parts of the data set.

    Attributes:
        train: Training images that do not validate.
        validation: What choices are made on.
        test: What results are reported on.
    """

    train: Images
    validation: Images
    test: Images

    def calibration(self, count: int, seed: int) -> Images:
        """``count`` training images; a larger count takes the same ones and more."""
        return self.train.take(_order(len(self.train), "calibration", seed)[:count])


def normalise(pixels: Tensor) -> Tensor:
    """From uint8 to what the network was trained on, float32 in channels-last layout."""
    mean = torch.tensor(IMAGENET_MEAN, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=pixels.device).view(3, 1, 1)
    floats = (pixels.float() / 255 - mean) / std
    return floats.contiguous(memory_format=torch.channels_last)


def read_part(folder: Path) -> Images:
    """Decode all images of one part, which must be of one size.

    Raises:
        ThinetError: If the folder does not hold images in class folders.
    """
    files = list_part(folder, class_folders(folder))
    pixels = torch.from_numpy(np.stack([np.asarray(files.load(k)) for k in range(len(files))]))
    return Images(pixels.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(files.labels))


def split(train: Images, test: Images, validation: int = VALIDATION) -> Data:
    """Set validation images aside, by a fixed draw."""
    order = _order(len(train), "validation", 0)
    return Data(train.take(order[validation:]), train.take(order[:validation]), test)


def read_data(root: Path) -> Data:
    """Read and split ``root/train`` and ``root/test``."""
    return split(read_part(root / "train"), read_part(root / "test"))


def _order(count: int, purpose: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed("cifar", purpose, seed))
    return torch.randperm(count, generator=generator)


def network(name: str, weights: Path) -> nn.Module:
    """A network of ``thinet.models`` for 32x32 images and ten classes, with weights from a file.

    Raises:
        ThinetError: If the file does not fit.
    """
    made = untrained(name)
    load_weights(made, str(weights))
    return made.eval().to(memory_format=torch.channels_last)


def untrained(name: str) -> nn.Module:
    """The same network with random weights; ``vgg16_gap`` with a quarter of its filters."""
    if name == "vgg16_gap":
        return build("thinet.models.vgg.vgg16_gap", num_classes=10, image_size=32, width=WIDTH)
    module = BUILDERS[1] if name.startswith("vgg") else BUILDERS[0]
    return build(f"{module}.{name}", num_classes=10, image_size=32)


class Pictures(ImageData):
    """The parts of a :class:`Data` for the engine: shifted by up to 4 pixels and mirrored to train.

    Args:
        data: Its images, which are moved to the CPU.
        batch: Images a step.
        seed: Of order and augmentation.
        workers: Processes that load images.
        flip: Whether half of the training images are mirrored.
    """

    def __init__(
        self, data: Data, batch: int, seed: int = 0, workers: int = 0, flip: bool = True
    ) -> None:
        side = data.train.pixels.shape[-1]
        super().__init__(
            image_size=side, batch_size=batch, num_workers=workers, seed=seed,
            resize="none", crop="pad", flip=flip,
        )  # fmt: skip
        self._data = data

    def check(self) -> None:
        """Ten classes, by their numbers."""
        self._set_classes([str(number) for number in range(10)], "CIFAR-10")

    def load_parts(self) -> Parts:
        """The tensors as they are."""
        parts = (self._data.train, self._data.test, self._data.validation)
        train, test, val = (TensorImages(one.pixels.cpu(), one.labels.cpu()) for one in parts)
        return Parts(train, test, val)


def make_engine(
    data: Data,
    batch: int,
    seed: int = 0,
    steps: int | None = None,
    gpu: bool = False,
    workers: int = 8,
    flip: bool = True,
) -> Engine:
    """What trains and measures, on one device.

    Args:
        data: Its images.
        batch: Images a step.
        seed: Of everything random.
        steps: Of an epoch; None for all.
        gpu: Whether on a GPU, which waits for images unless several processes load them.
        workers: Those processes.
        flip: Whether half of the training images are mirrored.
    """
    silence_lightning()
    pictures = Pictures(data, batch, seed, workers if gpu else 0, flip)
    pictures.setup()
    device = "gpu" if gpu else "cpu"
    return Engine(pictures, Devices(device, progress="off", max_steps_per_epoch=steps), seed=seed)


def accuracy(model: nn.Module, data: Data, part: str = "test", gpu: bool = False) -> float:
    """Top-1 accuracy in percent on ``test`` or ``val``; the network stays where it is."""
    engine = make_engine(data, BATCH if not gpu else 1_000, gpu=gpu)
    return 100 * engine.evaluate(copy.deepcopy(model), part).top1


def recalibrated(model: nn.Module, images: Images) -> nn.Module:
    """A copy whose BatchNorm statistics are those of ``images``."""
    made = copy.deepcopy(model)
    # thinet.prune's batches have 64 images by default; a batch's own variance is what it averages.
    recalibrate_(made, (batch for batch, _ in images.batches(64)))
    return made


def finetune(
    model: nn.Module,
    data: Data,
    epochs: int,
    per_epoch: int,
    seed: int,
    rate: float = 0.01,
    batch: int = 128,
    gpu: bool = False,
) -> nn.Module:
    """Train a copy: SGD with Nesterov momentum 0.9, weight decay 5e-4, a cosine down to zero.

    Args:
        model: Left as it was.
        data: To train on; its validation images watch.
        epochs: How many; 0 for a copy alone.
        per_epoch: Images an epoch, drawn anew for each from all of them.
        seed: Of draws and augmentation.
        rate: Learning rate at the start.
        batch: Images a step.
        gpu: Whether on a GPU.
    """
    made = copy.deepcopy(model).train()
    images = min(per_epoch, len(data.train))
    batch = min(batch, images)
    if epochs:
        engine = make_engine(data, batch, seed, images // batch, gpu)
        with tempfile.TemporaryDirectory() as folder:
            phase = Phase(epochs, rate, "cosine")
            engine.fit(made, [phase], Training(OPTIMIZER), "finetune", Path(folder))
    return made.eval()


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a CSV file in a single write, so that a killed run leaves whole rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not path.exists():
        writer.writerow(row)
    writer.writerow(_cell(value) for value in row.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, text.getvalue().encode())
    finally:
        os.close(descriptor)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def has_row(rows: Iterable[Mapping[str, str]], key: Mapping[str, Any]) -> bool:
    """Whether a row with these values is there."""
    wanted = {name: _cell(value) for name, value in key.items()}
    return any(all(row.get(name) == cell for name, cell in wanted.items()) for row in rows)


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def splice(readme: Path, text: str) -> None:
    """Put tables between the two marks of a README."""
    start, end = "<!-- tables -->", "<!-- end of tables -->"
    before, rest = readme.read_text().split(start)
    write_text_atomic(readme, f"{before}{start}\n\n{text.strip()}\n\n{end}{rest.split(end)[1]}")


def mean_and_spread(values: Sequence[float]) -> str:
    """``80.1 ± 0.3``: mean and standard deviation (n - 1), or the value alone."""
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else ""
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def beyond(
    rows: Mapping[str, Mapping[str, str]], others: Mapping[str, Mapping[str, str]], column: str
) -> str:
    """``+0.5 ± 0.2``: paired differences of a column, of rows by their seeds."""
    pairs = [float(rows[seed][column]) - float(others[seed][column])
             for seed in rows if seed in others]  # fmt: skip
    return ("+" if pairs and np.mean(pairs) > 0 else "") + mean_and_spread(pairs)


def noise(count: int, side: int = 32) -> Data:
    """Noise instead of images, to see that all runs."""
    generator = torch.Generator().manual_seed(0)

    def part(size: int) -> Images:
        shape = (size, 3, side, side)
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return Images(pixels, torch.randint(0, 10, (size,), generator=generator))

    return split(part(2 * count), part(count), validation=count)


def arguments(description: str | None, out: Path) -> argparse.ArgumentParser:
    """The arguments that all studies on CIFAR-10 take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--root", type=Path, help="folder with train/ and test/")
    parser.add_argument("--model", default="resnet56", help="a network of cifar_resnet, small_vgg")
    parser.add_argument("--weights", type=Path, help="its weights, .safetensors or .pth")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=out, help="where results.csv and figure.png go")
    parser.add_argument("--draw", action="store_true", help="only the figure and the tables")
    return parser


def parsed(
    parser: argparse.ArgumentParser, words: Sequence[str] | None, **tiny: Any
) -> argparse.Namespace:
    """The options; see :func:`experiments.smoke.parse`.

    Raises:
        SystemExit: If there are no images, or a smoke run would write over the study's results.
    """
    options = parse(parser, words, **tiny)
    if not options.smoke and not options.draw and options.root is None:
        parser.error("give the images: --root <folder with train/ and test/>, or --smoke")
    return options


def inputs(options: argparse.Namespace) -> tuple[nn.Module, Data]:
    """The network and the images that the options name; tiny ones for a smoke run."""
    torch.set_num_threads(options.threads)
    if options.smoke:
        torch.manual_seed(0)
        return CifarResNet(1, 10).eval(), noise(64)
    data = read_data(options.root)
    return (untrained(options.model) if options.weights is None
            else network(options.model, options.weights)), data  # fmt: skip

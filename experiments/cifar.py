"""What the studies on CIFAR-10 share: images in memory, splits, networks, accuracy, fine-tuning.

The images are read from a folder ``train/<class>/*`` and ``test/<class>/*``. Where they are JPEG
files they are lossy copies, and results are those of "the JPEG copy of CIFAR-10".
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thinet.base.files import write_text_atomic
from thinet.base.seeding import derive_seed
from thinet.datasets.layout import class_folders, list_part
from thinet.datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
from thinet.models import build
from thinet.models.weights import load_weights
from thinet.pruning.reconstruction import recalibrate_

BUILDERS = "thinet.models.cifar_resnet", "thinet.models.small_vgg"
WIDTH = 0.25
"""Of ``vgg16_gap``: its filters, over the paper's. A quarter fits two cores."""
BATCH = 32
"""Images a forward pass: activations stay in the cache of one core."""
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


@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    """Top-1 accuracy in percent."""
    model.eval()
    example, _ = next(images.batches(BATCH))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, without a quick successor
        # Frozen, its BatchNorms are folded into the convolutions: 1.7 times as fast on a core.
        frozen = torch.jit.freeze(torch.jit.trace(model, example, check_trace=False))
    right = sum(
        int((frozen(batch).argmax(dim=1) == labels).sum())
        for batch, labels in images.batches(BATCH)
    )
    return 100 * right / len(images)


def recalibrated(model: nn.Module, images: Images) -> nn.Module:
    """A copy whose BatchNorm statistics are those of ``images``."""
    made = copy.deepcopy(model)
    # thinet.prune's batches have 64 images by default; a batch's own variance is what it averages.
    recalibrate_(made, (batch for batch, _ in images.batches(64)))
    return made


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images and shift each by up to 4 pixels, zeros coming in.

    Args:
        pixels: uint8 ``(N, 3, H, W)``.
        generator: Draws, on the CPU wherever the images are.
    """
    count, _, height, width = pixels.shape
    there = pixels.device
    mirror = (torch.rand(count, generator=generator) < 0.5).to(there)
    pixels = torch.where(mirror.view(-1, 1, 1, 1), pixels.flip(3), pixels)
    padded = F.pad(pixels, (4, 4, 4, 4))
    top, left = torch.randint(0, 9, (2, count, 1, 1), generator=generator).to(there)
    rows = top + torch.arange(height, device=there).view(1, -1, 1)
    columns = left + torch.arange(width, device=there).view(1, 1, -1)
    image = torch.arange(count, device=there).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[image, rows, columns].permute(0, 3, 1, 2)


Gradients = Callable[[Tensor, Tensor], None]
"""From images and labels to the gradients of a network's parameters."""


def plain_gradients(network: nn.Module) -> Gradients:
    """By a forward and a backward pass."""

    def step(inputs: Tensor, labels: Tensor) -> None:
        loss = F.cross_entropy(network(inputs), labels)
        network.zero_grad(set_to_none=True)
        loss.backward()

    return step


def finetune(
    model: nn.Module,
    images: Images,
    epochs: int,
    per_epoch: int,
    seed: int,
    rate: float = 0.01,
    batch: int = 128,
    gradients: Callable[[nn.Module], Gradients] = plain_gradients,
) -> nn.Module:
    """Train a copy: SGD with Nesterov momentum 0.9, weight decay 5e-4, a cosine down to zero.

    Args:
        model: Left as it was.
        images: To train on.
        epochs: How many.
        per_epoch: Images an epoch, drawn anew for each from all of them.
        seed: Of draws and augmentation.
        rate: Learning rate at the start.
        batch: Images a step.
        gradients: Makes of the copy what computes its gradients in a step.
    """
    made = copy.deepcopy(model).train()
    optimiser = torch.optim.SGD(
        made.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    steps = epochs * (min(per_epoch, len(images)) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    differentiate = gradients(made)
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(derive_seed("finetune", seed, epoch))
        order = torch.randperm(len(images), generator=generator)[:per_epoch]
        for chosen in order.split(batch):
            if len(chosen) < batch:
                continue
            inputs = normalise(augment(images.pixels[chosen], generator))
            differentiate(inputs, images.labels[chosen])
            optimiser.step()
            schedule.step()
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

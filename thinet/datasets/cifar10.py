"""CIFAR-10: 60,000 colour images of 32x32 in 10 classes."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision import datasets

from thinet.datasets.archives import Archive
from thinet.datasets.images import TensorImages
from thinet.datasets.published import Published


class CIFAR10(Published):
    """CIFAR-10 in its published python format, ``<root>/cifar-10-batches-py/``.

    Normalised with ImageNet's mean and standard deviation, like the networks it is used with.
    """

    title = "CIFAR-10"
    class_names: tuple[str, ...] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    source: type[datasets.CIFAR10] = datasets.CIFAR10
    """What reads it; it compares checksums first, so that no other pickle is ever opened."""

    def files(self) -> list[Path]:
        """The batches and the list of names."""
        names = [name for name, _ in self.source.train_list + self.source.test_list]
        folder = Path(self.source.base_folder)
        return [folder / name for name in [*names, self.source.meta["filename"]]]

    def archives(self) -> list[Archive]:
        """The one that torchvision names."""
        return [Archive((self.source.url,), self.source.filename, self.source.tgz_md5)]

    def read_part(self, train: bool) -> TensorImages:
        """Images as uint8 (N, 3, 32, 32)."""
        part = self.source(Path(self.root).expanduser(), train=train)
        return TensorImages(torch.from_numpy(part.data).permute(0, 3, 1, 2), part.targets)

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
    class_names = (
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

    def files(self) -> list[Path]:
        """The six batches and the list of names."""
        source = datasets.CIFAR10
        names = [name for name, _ in source.train_list + source.test_list]
        return [Path(source.base_folder) / name for name in [*names, source.meta["filename"]]]

    def archives(self) -> list[Archive]:
        """The one that torchvision names."""
        source = datasets.CIFAR10
        return [Archive((source.url,), source.filename, source.tgz_md5)]

    def open_part(self, train: bool) -> datasets.CIFAR10:
        """The training or test part as torchvision's data set."""
        return datasets.CIFAR10(Path(self.root).expanduser(), train=train)

    def tensors(self, part: datasets.VisionDataset) -> TensorImages:
        """Images as uint8 (N, 3, 32, 32)."""
        assert isinstance(part, datasets.CIFAR10)
        return TensorImages(torch.from_numpy(part.data).permute(0, 3, 1, 2), part.targets)

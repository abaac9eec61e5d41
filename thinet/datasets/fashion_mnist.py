"""Fashion-MNIST: 70,000 grey images of 28x28 in 10 classes."""

from __future__ import annotations

from pathlib import Path

from torchvision import datasets

from thinet.datasets.archives import Archive
from thinet.datasets.images import TensorImages
from thinet.datasets.published import Published

_FOLDER = Path("FashionMNIST/raw")


class FashionMNIST(Published):
    """Fashion-MNIST in its published format, ``<root>/FashionMNIST/raw/``."""

    title = "Fashion-MNIST"
    class_names = tuple(datasets.FashionMNIST.classes)
    default_mean = (0.2860, 0.2860, 0.2860)  # of the 60,000 training images
    default_std = (0.3530, 0.3530, 0.3530)

    def files(self) -> list[Path]:
        """Images and labels of both parts."""
        return [_FOLDER / Path(name).stem for name, _ in datasets.FashionMNIST.resources]

    def archives(self) -> list[Archive]:
        """One for each file."""
        source = datasets.FashionMNIST
        return [
            Archive(tuple(f"{mirror}{name}" for mirror in source.mirrors), name, md5, _FOLDER)
            for name, md5 in source.resources
        ]

    def open_part(self, train: bool) -> datasets.FashionMNIST:
        """The training or test part as torchvision's data set."""
        return datasets.FashionMNIST(Path(self.root).expanduser(), train=train)

    def tensors(self, part: datasets.VisionDataset) -> TensorImages:
        """Images as uint8 (N, 1, 28, 28)."""
        assert isinstance(part, datasets.FashionMNIST)
        return TensorImages(part.data[:, None], part.targets)

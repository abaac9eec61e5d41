"""MNIST: 70,000 grey images of 28x28, handwritten digits."""

from __future__ import annotations

from pathlib import Path

from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file

from thinet.datasets.archives import Archive
from thinet.datasets.images import TensorImages
from thinet.datasets.published import Published


class MNIST(Published):
    """MNIST in its published format, ``<root>/MNIST/raw/``.

    Only those four files are read: torchvision would prefer the pickles that its old versions have
    left in ``<root>/MNIST/processed/``.
    """

    title = "MNIST"
    class_names = tuple(str(digit) for digit in range(10))
    source: type[datasets.MNIST] = datasets.MNIST
    """Where the files are published."""
    default_mean = (0.1307, 0.1307, 0.1307)  # of the 60,000 training images
    default_std = (0.3081, 0.3081, 0.3081)

    @property
    def folder(self) -> Path:
        """Where they lie, relative to the root."""
        return Path(self.source.__name__) / "raw"

    def files(self) -> list[Path]:
        """Images and labels of both parts."""
        return [self.folder / Path(name).stem for name, _ in self.source.resources]

    def archives(self) -> list[Archive]:
        """One for each file."""
        return [
            Archive(
                tuple(f"{mirror}{name}" for mirror in self.source.mirrors), name, md5, self.folder
            )
            for name, md5 in self.source.resources
        ]

    def read_part(self, train: bool) -> TensorImages:
        """Images as uint8 (N, 1, 28, 28)."""
        folder = Path(self.root).expanduser() / self.folder
        part = "train" if train else "t10k"
        images = read_image_file(str(folder / f"{part}-images-idx3-ubyte"))
        return TensorImages(
            images[:, None], read_label_file(str(folder / f"{part}-labels-idx1-ubyte"))
        )

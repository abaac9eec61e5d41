"""Data sets that torchvision knows how to read and, if asked to, download."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from abc import abstractmethod
from pathlib import Path
from typing import Any

from thinet.base.errors import ThinetError
from thinet.datasets.archives import Archive, fetch
from thinet.datasets.images import TensorImages
from thinet.datasets.module import ImageData, Parts

# What archives raise; their MD5 has been compared with the published one before they are opened.
_DAMAGED = (tarfile.TarError, zlib.error, lzma.LZMAError)


class Published(ImageData):
    """Base of small published data sets; nothing is downloaded unless ``download`` says so.

    Args:
        root: Folder that holds the data set's own folder.
        download: Fetch what is missing.
        common: See :class:`~thinet.datasets.module.ImageData`.
    """

    title: str
    class_names: tuple[str, ...]

    def __init__(self, *, root: str | None = "data", download: bool = False, **common: Any) -> None:
        super().__init__(**common)
        self.root = root or "data"
        self.download = download

    @abstractmethod
    def files(self) -> list[Path]:
        """The unpacked files torchvision reads, relative to the root."""

    @abstractmethod
    def archives(self) -> list[Archive]:
        """The published archives that hold these files."""

    @abstractmethod
    def read_part(self, train: bool) -> TensorImages:
        """Images and labels of the training or test part."""

    def check(self) -> None:
        """Check that the files are there, or may be downloaded.

        Raises:
            ThinetError: If one is missing and ``download`` is off.
        """
        missing = self._missing()
        if missing and not self.download:
            raise ThinetError(
                f"{self.title} is not in dataset.root={self.root} ({missing[0]} is missing): type "
                "dataset.root=<its folder>, or dataset.download=true to fetch it."
            )
        self._set_classes(self.class_names, self.title)

    def prepare_data(self) -> None:
        """Download what is missing if that is allowed; Lightning calls it in one process only.

        Raises:
            ThinetError: If the download fails.
        """
        missing = self._missing()
        if not self.download or not missing:
            return
        try:
            fetch(self.archives(), missing, Path(self.root).expanduser())
        except (ThinetError, OSError, RuntimeError, ValueError, EOFError, *_DAMAGED) as error:
            reason = " ".join(str(error).split())[:200]
            raise ThinetError(
                f"{self.title} could not be downloaded ({reason}): put its files into "
                f"{Path(self.root) / self.files()[0].parent} by hand."
            ) from error

    def load_parts(self) -> Parts:
        """Read both parts into memory.

        Raises:
            ThinetError: If a file is damaged.
        """
        self.prepare_data()
        try:
            train, test = (self.read_part(train=part) for part in (True, False))
            for part in (train, test):
                _check_labels(part, len(self.class_names))
            return Parts(train, test=test)
        except (
            OSError, RuntimeError, ValueError, EOFError, KeyError, AssertionError, *_DAMAGED,
        ) as error:  # fmt: skip
            reason = " ".join(str(error).split())[:200]
            raise ThinetError(
                f"{self.title} in dataset.root={self.root} is damaged ({reason}): delete "
                f"{Path(self.root) / self.files()[0].parent} and type dataset.download=true."
            ) from error

    def _missing(self) -> list[Path]:
        root = Path(self.root).expanduser()
        return [file for file in self.files() if not (root / file).is_file()]


def _check_labels(part: TensorImages, classes: int) -> None:
    """Not every format has a checksum that would notice.

    Raises:
        ValueError: If there is not one label for each image, or one is of no class.
    """
    if not 0 < len(part.images) == len(part):
        raise ValueError(f"{len(part)} labels of {len(part.images)} images")
    if part.labels.min() < 0 or part.labels.max() >= classes:
        raise ValueError(f"labels from {part.labels.min()} to {part.labels.max()}")

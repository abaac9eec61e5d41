"""Where images come from, and the data set a loader reads."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from thinet.datasets.reading import ImageError, Reader, read_image
from thinet.datasets.unreadable import Unreadable

EXAMINED = 2000
"""Images of a part whose content is compared when a run is resumed."""


OPENED = 50
"""About how many of those are opened for it."""


class Images(ABC):
    """A part of a data set: labels at hand, pixels on demand."""

    labels: np.ndarray
    """Class index per image, int64 of shape (N,)."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load(self, index: int) -> Image.Image | Tensor:
        """Image ``index`` with three channels, before any transform."""

    @abstractmethod
    def content(self, indices: Sequence[int]) -> bytes:
        """What tells changed images from the same ones, without decoding any."""

    def digest(self) -> str:
        """Eight digits that change when images come, go, move to another class or change.

        Of the content of very many images, :data:`EXAMINED` are looked at.
        """
        some = np.linspace(0, len(self) - 1, min(len(self), EXAMINED)).astype(int)
        content = self.labels.tobytes() + self.content([int(index) for index in some])
        return hashlib.sha256(content).hexdigest()[:8]


class FileImages(Images):
    """Image files.

    The paths are kept in one byte array: a list of a million strings would be copied into every
    worker process as soon as its reference counts are touched.

    Args:
        paths: One file per image.
        labels: One class index per image.
        read: Decodes a file; see :func:`thinet.datasets.decoders.find_reader`.
    """

    def __init__(
        self, paths: Sequence[str], labels: Sequence[int], read: Reader = read_image
    ) -> None:
        self._paths = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
        self.labels = np.asarray(labels, dtype=np.int64)
        self._read = read

    def path(self, index: int) -> str:
        """File of image ``index``."""
        return os.fsdecode(bytes(self._paths[index]))

    def load(self, index: int) -> Image.Image | Tensor:
        """Decode image ``index``.

        Raises:
            ImageError: Naming the file if it cannot be decoded.
        """
        return self._read(self.path(index))

    def content(self, indices: Sequence[int]) -> bytes:
        """All names, the sizes of some files (-1 for a missing one), and how a few begin.

        Names are relative to the folder that holds all of them, so that the same images are the
        same on another machine.
        """
        if not len(self):
            return b""
        letters = self._paths.view(np.uint8).reshape(len(self), -1)
        same = (letters == letters[0]).all(axis=0)
        shared = bytes(letters[0, : same.size if same.all() else same.argmin()])
        names = letters[:, shared.rfind(os.fsencode(os.sep)) + 1 :].tobytes()
        sizes = [_size(self.path(index)) for index in indices]
        few = list(indices)[:: max(1, len(indices) // OPENED)]
        return (
            names + repr(sizes).encode() + b"".join(_beginning(self.path(index)) for index in few)
        )


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _beginning(path: str) -> bytes:
    """Formats without compression have files of one size: what they hold tells them apart."""
    try:
        with open(path, "rb") as file:
            return file.read(2**16)
    except OSError:
        return b""


class TensorImages(Images):
    """Images held in memory.

    Args:
        images: (N, 1 or 3, H, W), uint8 or float in [0, 1].
        labels: One class index per image.
    """

    def __init__(self, images: Tensor, labels: Sequence[int] | np.ndarray | Tensor) -> None:
        self.images = images
        self.labels = np.asarray(labels, dtype=np.int64)

    def load(self, index: int) -> Tensor:
        """Image ``index`` as (3, H, W)."""
        return self.images[index].expand(3, -1, -1)

    def content(self, indices: Sequence[int]) -> bytes:
        """The pixels."""
        return self.images[list(indices)].contiguous().numpy().tobytes()


class ImageView(Dataset[Any]):
    """Some of the images of a part, transformed: items are ``(image, label)``.

    Args:
        images: The part.
        positions: Which of its images, in which order.
        transform: From a decoded image to a float tensor (3, H, W).
    """

    def __init__(
        self,
        images: Images,
        positions: Sequence[int] | np.ndarray,
        transform: Callable[[Any], Tensor],
    ) -> None:
        self.images = images
        self.positions = np.asarray(positions, dtype=np.int64)
        self.transform = transform

    @property
    def labels(self) -> list[int]:
        """Class index per item, without decoding anything."""
        return [int(label) for label in self.images.labels[self.positions]]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, int] | Unreadable:
        """Item ``key``, or for a pair ``(position, seed)`` that item augmented from that seed.

        An image that cannot be decoded is an item too, so that a loader can leave it out.
        """
        index, seed = key if isinstance(key, tuple) else (key, None)
        position = int(self.positions[index])
        try:
            image = self.images.load(position)
        except ImageError as error:
            if error.unreadable is None:
                raise
            return error.unreadable
        label = int(self.images.labels[position])
        if seed is None:
            return self.transform(image), label
        with _seeded(seed):
            return self.transform(image), label


class NumberedView(ImageView):
    """The same items, each with its number in the place of its label."""

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, int] | Unreadable:
        """Item ``key`` as ``(image, key)``."""
        assert isinstance(key, int)
        item = super().__getitem__(key)
        return item if isinstance(item, Unreadable) else (item[0], key)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's CPU generator starts from ``seed`` inside and is as before outside.

    ``torch.manual_seed`` would also reseed the accelerator, which dropout draws from.
    """
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)

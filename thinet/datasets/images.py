"""Where images come from, and the data set a loader reads."""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from thinet.base.errors import ThinetError
from thinet.datasets.unreadable import Unreadable

Reader = Callable[[str], Image.Image | Tensor]
"""From a file to an image with three channels: a Pillow image, or uint8 (3, H, W)."""

EXAMINED = 2000
"""Images of a part whose content is compared when a run is resumed."""


BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
"""Tags of TIFF 6.0, and a value of the second."""


OPENED = 50
"""About how many of those are opened for it."""


class ImageError(ThinetError):
    """An image file that cannot be decoded.

    A DataLoader raises the error of a worker process anew, as the same type with the worker's
    traceback as its message; this class finds its own sentence in there again.
    """

    # Makes torch's ExceptionWrapper raise without keeping the error in a local variable. That
    # variable would tie the loader into a reference cycle, and a loader that the garbage collector
    # takes apart waits five seconds for each of its workers.
    message = "unreadable image"

    def __init__(self, message: str, unreadable: Unreadable | None = None) -> None:
        super().__init__(clean_worker_error(message))
        self.unreadable = unreadable


def clean_worker_error(message: str) -> str:
    r"""The last sentence of a worker's traceback; any other message comes back as it is.

    >>> clean_worker_error("Caught ImageError in worker.\nOriginal ...\nx.ImageError: bad.\n")
    'bad.'
    """
    if not re.match(r"Caught \w+ in ", message):
        return message
    last_line = message.rstrip().rpartition("\n")[2]
    return last_line.partition(": ")[2] or last_line


def read_image(path: str) -> Image.Image:
    """Decode an image file to RGB; grey images are repeated, transparency is dropped.

    Of 16 bits the upper eight stay, in grey images as in coloured ones.

    Raises:
        ImageError: If the file is missing, truncated, no image, or one whose levels have no range
            that is known.
    """
    try:
        with Image.open(path) as image:
            return _eight_bits(image).convert("RGB")
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        raise _unreadable(path, error) from error


def _is_deep(image: Image.Image) -> bool:
    """Whether it is a grey image of 16 bits; older versions of Pillow call some of them ``I``.

    Raises:
        ValueError: If its levels are whole numbers of 32 bits, or not whole.
    """
    deep = image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in ("PNG", "PPM", "JPEG2000")
    )
    if not deep and image.mode[0] in "IF":
        raise ValueError(
            "its levels are numbers of 32 bits, which have no range that is known: convert it to "
            "8 or 16 bits"
        )
    return deep


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with levels from 0 to 255; Pillow's own ``convert`` would clip larger ones."""
    if not _is_deep(image):
        return image
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    levels = np.asarray(image).astype(np.int64).clip(0, 2**bits - 1) >> (bits - 8)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        levels = 255 - levels
    return Image.fromarray(levels.astype(np.uint8))


def find_unreadable(paths: Iterable[str]) -> list[Unreadable]:
    """Decode each file coarsely, to find broken ones before long work starts.

    JPEGs are decoded at an eighth of their size: all data are read, most arithmetic is left out.

    Returns:
        The files that are missing, truncated or no images.
    """
    found = []
    for path in paths:
        try:
            with Image.open(path) as image:
                image.draft("RGB", (1, 1))
                image.load()
                _is_deep(image)
        except Exception as error:  # as above
            found.append(Unreadable(path, _reason(error)))
    return found


def _unreadable(path: str, error: Exception) -> ImageError:
    reason = _reason(error)
    if isinstance(error, FileNotFoundError):
        sentence = f"image {path} {reason}: restore it and repeat the command."
    else:
        sentence = (
            f"image {path} cannot be read ({reason}): replace or delete it and repeat the command."
        )
    return ImageError(sentence, Unreadable(path, reason))


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, UnidentifiedImageError):
        return "no image format is recognised in it"
    return " ".join(str(error).split()) or type(error).__name__


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

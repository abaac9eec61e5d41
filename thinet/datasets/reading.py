"""From an image file to pixels, or to a sentence that says what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from thinet.base.errors import ThinetError
from thinet.datasets.unreadable import Unreadable

Reader = Callable[[str], Image.Image | Tensor]
"""From a file to an image with three channels: a Pillow image, or uint8 (3, H, W)."""

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
"""Tags of TIFF 6.0, and a value of the second."""


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

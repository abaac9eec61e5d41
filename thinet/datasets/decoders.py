"""How an image file becomes pixels: Pillow, or TorchCodec for JPEGs (``dataset.loader``)."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import import_module

from PIL import Image
from torch import Tensor

from thinet.base.errors import ThinetError
from thinet.datasets.reading import Reader, read_image

LOADERS = ("pil", "torchcodec")
JPEG = b"\xff\xd8\xff"
EXIF = b"Exif\x00\x00"
ORIENTATION = 0x0112


def find_reader(loader: str) -> Reader:
    """The function that reads image files.

    Args:
        loader: ``pil`` decodes with Pillow; resizing is Pillow's, too. ``torchcodec`` decodes
            JPEGs with TorchCodec (version 0.16 or newer, BSD-3) into tensors, which torchvision
            resizes with its own kernels. What is no JPEG is Pillow's in either case.

    Raises:
        ThinetError: If it is another word, or TorchCodec is not installed.
    """
    if loader == "pil":
        return read_image
    if loader != "torchcodec":
        raise ThinetError(
            f"dataset.loader={loader} is unknown: choose dataset.loader={'|'.join(LOADERS)}."
        )
    try:
        _decode_jpeg()
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ThinetError(
            f"dataset.loader=torchcodec cannot load TorchCodec 0.16 or newer ({reason}): type "
            "pip install 'thinet[fast]', or dataset.loader=pil."
        ) from error
    return read_jpeg


def read_jpeg(path: str) -> Image.Image | Tensor:
    """Decode a JPEG by TorchCodec to uint8 (3, H, W); any other file as :func:`read_image` does.

    Pillow has the last word on files that TorchCodec refuses, so that the same files are readable
    and the same sentence names a broken one. Like Pillow, and unlike TorchCodec, it leaves pixels
    as they are stored where EXIF asks for a rotation.

    Raises:
        ImageError: If the file is missing, truncated or no image.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        return read_image(path)
    if not content.startswith(JPEG) or _is_rotated(content):
        return read_image(path)
    try:
        return _decode_jpeg()(content)
    except RuntimeError:
        return read_image(path)


def _decode_jpeg() -> Callable[[bytes], Tensor]:
    """TorchCodec's decoder of JPEGs; it is an optional dependency, so not imported above."""
    decode: Callable[[bytes], Tensor] = import_module("torchcodec.decoders").decode_jpeg
    return decode


def _is_rotated(content: bytes) -> bool:
    """Whether the EXIF block of a JPEG asks for anything but the pixels as they are."""
    if EXIF not in content:
        return False
    try:
        with Image.open(io.BytesIO(content)) as image:
            return bool(image.getexif().get(ORIENTATION, 1) != 1)
    except Exception:  # as in read_image, which says what is wrong
        return True

"""The header of a safetensors file, judged before a tensor of it is read."""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from thinet.base.errors import ThinetError, first_line

LARGEST = 2**24
"""Bytes of a header: a hundred for each tensor is usual, so this is a hundred thousand tensors."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What tensors of a network are made of."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a file, not read yet."""

    dtype: torch.dtype
    shape: tuple[int, ...]


def read_header(path: str | Path) -> dict[str, Entry]:
    """What tensors a safetensors file holds, which then take no more room than the file does.

    Raises:
        ThinetError: If the file is missing, is none, or its header does not fit its size.
    """
    path = Path(path)
    try:
        # Opening a pipe would wait for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("it is not a regular file")
            length = int.from_bytes(file.read(8), "little")
            if found.st_size < 8 or not 2 <= length <= min(LARGEST, found.st_size - 8):
                raise ValueError("HeaderTooLarge" if length > LARGEST else "InvalidHeaderLength")
            content = json.loads(file.read(length).decode())
            return _entries(content, found.st_size - 8 - length)
    except FileNotFoundError as error:
        raise ThinetError(f"{path} does not exist: give the folder of a saved network.") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = first_line(error)[:200]
        raise ThinetError(
            f"{path} is damaged or not a safetensors file ({reason}): copy it again or run again."
        ) from error


def _entries(content: Any, size: int) -> dict[str, Entry]:
    content.pop("__metadata__", None)
    entries = {}
    total = 0
    for name, entry in content.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{name[:60]} is of type {str(entry['dtype'])[:20]}")
        if len(name) > 500:
            raise ValueError("a name has more than 500 characters")
        shape, (begin, end) = entry["shape"], entry["data_offsets"]
        if not all(type(one) is int and 0 <= one < 2**40 for one in (*shape, begin, end)):
            raise ValueError(f"{name[:60]} has no proper shape")
        entries[name] = Entry(DTYPES[entry["dtype"]], tuple(shape))
        if len(shape) > 8 or math.prod(shape) * entries[name].dtype.itemsize != end - begin:
            raise ValueError(f"{name[:60]} does not fill its place")
        total += end - begin
    if total != size:
        raise ValueError(f"its tensors have {total} bytes instead of {size}")
    return entries

"""YAML files that are small and flat enough to be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from thinet.base.errors import ThinetError

_LARGEST = 2**20  # bytes, and values that aliases stand for
_DEEPEST = 160


def check_yaml(path: Path) -> None:
    """Refuse a YAML file that is too large or too deep, or means too many values by its aliases.

    Raises:
        ThinetError: If so.
    """
    if path.stat().st_size > _LARGEST:
        raise ThinetError(
            f"{path} has more than {_LARGEST} bytes: a configuration is a short text file."
        )
    text = path.read_bytes()
    if _depth(text) > _DEEPEST:
        raise ThinetError(f"{path} is nested too deeply: write it flatter.")
    if b"&" not in text or b"*" not in text:
        return
    try:
        size = _expanded(yaml.compose(text, yaml.SafeLoader), {})
    except (RecursionError, KeyError):
        size = _LARGEST + 1
    except (yaml.YAMLError, ValueError):
        return  # Hydra has its own words for this
    if size > _LARGEST:
        raise ThinetError(
            f"{path} repeats itself too often by its aliases (&name, *name): write it without them."
        )


def _depth(text: bytes) -> int:
    """At least as deep as a YAML text is nested, by its brackets and by what its lines begin with.

    The parser would find out by running out of stack.
    """
    deepest = depth = 0
    for bracket in re.findall(rb"[][{}]", text):
        depth = max(depth + (1 if bracket in b"[{" else -1), 0)
        deepest = max(deepest, depth)
    lines = re.split(rb"[\r\n]", text)
    return max(deepest, *(len(line) - len(line.lstrip(b" -?:")) for line in lines))


def _expanded(node: Any, known: dict[int, int | None]) -> int:
    """Values in a tree in which nodes are shared; a ``KeyError`` if one contains itself."""
    if node is None:
        return 1
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            raise KeyError
        return size
    known[id(node)] = None
    inner = node.value if isinstance(node.value, list) else []
    parts = [part for one in inner for part in (one if isinstance(one, tuple) else (one,))]
    total = 1 + sum(_expanded(part, known) for part in parts)
    known[id(node)] = total
    return total

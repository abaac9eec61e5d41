"""How much a configuration may stand for once its references ``${...}`` are resolved.

OmegaConf resolves a reference anew wherever it stands, so that thirty short lines, each of which
names the next one twice, stand for a billion texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.base import Container

from thinet.base.errors import ThinetError

_MOST = 2**20
"""Characters and values, where a reference counts as many as it takes time."""
_REFERENCE = 40


class _Meter:
    """What the references that are being resolved have come to."""

    def __init__(self) -> None:
        self.depth = 0
        self.spent = 0

    def add(self, amount: int) -> None:
        self.spent += amount
        if self.spent > _MOST:
            raise ThinetError(_SENTENCE)


_SENTENCE = (
    "the configuration refers to itself so often (${...}) that it never ends: write the values "
    "themselves."
)
_meter = _Meter()


@contextmanager
def metered() -> Iterator[None]:
    """One measure for all that is resolved within; by itself each value has one of its own.

    Raises:
        ThinetError: If it is too much.
    """
    if _meter.depth == 0:
        _meter.spent = 0
    _meter.depth += 1
    try:
        yield
    except Exception:
        if _meter.spent > _MOST and _meter.depth == 1:  # OmegaConf has words of its own around it
            raise ThinetError(_SENTENCE) from None
        raise
    finally:
        _meter.depth -= 1


def resolve(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Around OmegaConf's resolving of one text."""
    with metered():
        _meter.add(_REFERENCE)
        return inner(*args, **kwargs)


def refer(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Around OmegaConf's looking up of one reference."""
    found = inner(*args, **kwargs)
    value = found if isinstance(found, Container) else found._value()
    _meter.add(len(value) if isinstance(value, str) else _count(value))
    return found


def _count(value: Any) -> int:
    """Values in a node, as they are written."""
    if not isinstance(value, (DictConfig, ListConfig)) or isinstance(value._content, str | None):
        return 1
    raw: Any = OmegaConf.to_container(value, resolve=False)
    return _size(raw)


def _size(raw: Any) -> int:
    if isinstance(raw, Mapping):
        return 1 + sum(map(_size, raw.values()))
    if isinstance(raw, list):
        return 1 + sum(map(_size, raw))
    return 1


def check_expansion(cfg: DictConfig) -> None:
    """Resolve a whole configuration once, for its size alone.

    Raises:
        ThinetError: If it stands for too much. Whatever else is wrong is left to others.
    """
    with metered():
        for key in cfg:
            if key == "hydra":
                continue
            try:
                node = cfg[key]
                if OmegaConf.is_config(node):
                    OmegaConf.to_container(node, resolve=True)
            except Exception:
                if _meter.spent > _MOST:
                    raise

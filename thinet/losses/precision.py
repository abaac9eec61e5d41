"""The precision that losses are computed in."""

from __future__ import annotations

from torch import Tensor


def in_full(values: Tensor) -> Tensor:
    """In float32 at least: halves lose the small differences that a loss is made of."""
    return values if values.element_size() >= 4 else values.float()

"""Which bits rounding may decide, and what hangs on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thinet.quantization.geometry import Geometry, affine
from thinet.quantization.residual import sign

NEAR = 1e-6
"""Of the numbers that a residual is made of: nearer to 0, rounding may decide its sign."""


@torch.no_grad()
def undecided(layer: Any, given: Tensor, near: float) -> Tensor:
    """Twice the scales of bits that rounding may decide, summed over what a filter sees."""
    x, error = given, torch.zeros(())
    flat = not hasattr(layer, "kernel_size")
    if layer.norm is not None:
        factor, summand = affine(layer.norm)
        shape = (-1,) if flat else (-1, 1, 1)
        scaled, summand = x * factor.view(shape), summand.view(shape)
        x, error = scaled + summand, scaled.abs() + summand.abs()
    by_patch = layer.quantizer.scale == "patch"
    if flat:
        over = (x.dim() - 1,) if by_patch else tuple(range(1, x.dim()))
        return _at_stake(layer, x, error, over, near).sum(-1, keepdim=True)
    geometry = Geometry(layer)
    if not by_patch:
        return geometry.sums(_at_stake(layer, x, error, (1, 2, 3), near).sum(1, keepdim=True))
    ones = torch.ones(1, 1, *x.shape[2:])
    columns, errors = geometry.columns(x), geometry.columns(error.expand_as(x))
    made = _at_stake(layer, columns, errors, (1,), near).sum(1)
    return made.view(len(x), 1, *geometry.sums(ones).shape[2:])


def _at_stake(layer: Any, x: Tensor, error: Tensor, axes: tuple[int, ...], near: float) -> Tensor:
    """2 (b_1 + ... + b_K) where a bit is undecided, else 0: of the shape of ``x``."""
    residual, reach = x, torch.zeros(())
    undecided = x.abs() < near * error
    for k in range(layer.quantizer.order):
        if layer.constant is None:
            scale = residual.abs().mean(axes, keepdim=True)
        else:
            scale = layer.constant.scales[k]
        if k:
            undecided = undecided | (residual.abs() <= near * (x.abs() + reach + error))
        reach = reach + scale
        residual = residual - scale * sign(residual)
    return torch.where(undecided, 2 * reach, 0.0)

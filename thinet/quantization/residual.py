"""Order-K residual quantisation of activations, with gradients that pass through.

Source: Li, Ni, Zhang, Yang, Gao, "Performance Guaranteed Network Acceleration via High-Order
Residual Quantization", ICCV 2017 (HORQ). Order 1 is XNOR-Net (Rastegari et al., ECCV 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from thinet.base.errors import ThinetError
from thinet.base.values import shown
from thinet.losses.precision import in_full
from thinet.quantization.settings import check_order
from thinet.surgery.modes import without_autocast


def sign(x: Tensor) -> Tensor:
    """+1 where ``x >= 0``, else -1, in the type of ``x``: two values, as bits have them."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def residual_binarize(
    x: Tensor, order: int, scale: str | Tensor = "sample", clip: float = 1.0
) -> Tensor:
    """The sum of ``order`` binary tensors that is greedily closest to ``x``.

    R_0 = x; H_k = sign(R_{k-1}); b_k = mean |R_{k-1}|; R_k = R_{k-1} - b_k H_k, and the result is
    b_1 H_1 + ... + b_K H_K (equations 4 to 9 as read from secondary accounts of the paper, which
    could not be had itself). It leaves ||R_K||^2 = ||x||^2 - n (b_1^2 + ... + b_K^2) exactly.

    Gradients pass through each sign where its argument is within ``clip``, with scales held fixed:
    d = 1 - prod_k (1 - b_k 1{|R_{k-1}| <= clip}), the product form of the recursion's own.

    Args:
        x: ``(N, ...)``; of ``patch`` columns ``(N, n, P)``, one column a position.
        order: K, at least 1.
        scale: ``sample``: b_k is the mean over all of an image; ``patch``: over each column (the
            paper's Algorithm 2); or the scales themselves, ``(K,)``.
        clip: Where a sign's straight-through gradient ends.

    Returns:
        Of the shape and type of ``x``; scales are computed in float32 at least.

    Raises:
        ThinetError: If order or scale make no sense.
    """
    check_order(order)
    if isinstance(scale, str):
        if scale not in ("sample", "patch"):
            raise ThinetError(
                f"scale={shown(scale)} is unknown here: choose sample or patch, or pass the "
                "constant scales as a tensor."
            )
        if scale == "patch" and x.dim() != 3:
            raise ThinetError(
                f"scale=patch takes columns (N, n, positions), not a shape of {tuple(x.shape)}: "
                "unfold the images first."
            )
        axes: tuple[int, ...] | None = (1,) if scale == "patch" else tuple(range(1, x.dim()))
        fixed = None
    else:
        axes, fixed = None, scale.to(torch.promote_types(x.dtype, torch.float32))
        if fixed.shape != (order,):
            raise ThinetError(f"constant scales of order {order} have the shape ({order},).")
    if torch.is_grad_enabled() and x.requires_grad:
        made: Tensor = _Residual.apply(x, order, axes, fixed, clip)  # type: ignore[no-untyped-call]
        return made
    return _binarized(x, order, axes, fixed)


def residual_scales(
    x: Tensor,
    order: int,
    axes: Sequence[int],
    share: Callable[[Tensor], Tensor] = lambda scale: scale,
) -> Tensor:
    """The scales b_1 to b_K of an input: ``(K, ...)``, means over ``axes``, which stay as 1.

    Args:
        x: The input.
        order: K.
        axes: What each scale is the mean of.
        share: Of each scale, before the next one is found: how processes agree on it.
    """
    residual, found = in_full(x), []
    for _ in range(order):
        found.append(share(residual.abs().mean(tuple(axes), keepdim=True)))
        residual = residual - found[-1] * sign(residual)
    return torch.stack(found)


def _binarized(x: Tensor, order: int, axes: tuple[int, ...] | None, fixed: Tensor | None) -> Tensor:
    """The forward pass alone."""
    residual = in_full(x)
    total = torch.zeros((), device=x.device, dtype=residual.dtype)
    for k in range(order):
        scale = residual.abs().mean(axes, keepdim=True) if fixed is None else fixed[k]
        part = torch.where(residual >= 0, scale, -scale)
        total, residual = total + part, residual - part
    return total.to(x.dtype)


class _Residual(torch.autograd.Function):
    """Keeps one number for each of the input's: the slope."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        x: Tensor,
        order: int,
        axes: tuple[int, ...] | None,
        fixed: Tensor | None,
        clip: float,
    ) -> Tensor:
        residual = in_full(x)
        total = torch.zeros((), device=x.device, dtype=residual.dtype)
        missed = torch.ones((), device=x.device, dtype=residual.dtype)
        for k in range(order):
            size = residual.abs()
            scale = size.mean(axes, keepdim=True) if fixed is None else fixed[k]
            missed = missed * torch.where(size <= clip, 1 - scale, 1.0)
            part = torch.where(residual >= 0, scale, -scale)
            total, residual = total + part, residual - part
        ctx.save_for_backward((1 - missed).to(x.dtype))
        return total.to(x.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None, None, None

"""Weights of one bit, with one factor a filter.

Source: Rastegari et al. 2016 (XNOR-Net), whose first-order weights HORQ keeps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thinet.losses.precision import in_full
from thinet.quantization.residual import sign


def filter_scales(weight: Tensor) -> Tensor:
    """alpha_o = mean |W_o| of each filter, in float32 at least: ``(O, ...)`` to ``(O,)``."""
    return in_full(weight).abs().flatten(1).mean(1)


def binarize_weight(weight: Tensor, clip: float = 1.0) -> Tensor:
    """alpha_o sign(W_o), the closest to W_o of all alpha B with B of -1 and +1.

    The gradient is that of the product, straight through the sign:
    dC/dW_i = sign(W_i) mean_j(dC/dW~_j sign(W_j)) + alpha 1{|W_i| <= clip} dC/dW~_i. XNOR-Net
    prints dC/dW~_i (1/n + alpha 1{...}), which leaves out how the scale moves the other weights.

    Args:
        weight: ``(O, ...)``.
        clip: Where the straight-through gradient ends.
    """
    scales = filter_scales(weight).view(-1, *[1] * (weight.dim() - 1))
    values = in_full(weight)
    bounded = values.clamp(-clip, clip)
    signs = sign(values).detach() + (bounded - bounded.detach())
    return (scales * signs).to(weight.dtype)


def pack_signs(weight: Tensor) -> Tensor:
    """Signs as bits, 8 a byte, the first one lowest; each filter begins a byte of its own.

    Args:
        weight: ``(O, ...)`` with n values a filter; a bit is set where the value is >= 0.

    Returns:
        ``uint8`` of shape ``(O, ceil(n / 8))``; bits beyond n are 0.
    """
    bits = (weight.flatten(1) >= 0).to(torch.uint8)
    bits = torch.nn.functional.pad(bits, (0, -bits.shape[1] % 8)).view(len(bits), -1, 8)
    return (bits * _powers(bits.device)).sum(2, dtype=torch.uint8)


def unpack_bits(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What :func:`pack_signs` packed, as booleans in ``shape``, whose first axis are filters."""
    size = torch.Size(shape[1:]).numel()
    bits = (packed.unsqueeze(2) & _powers(packed.device)) != 0
    return bits.flatten(1)[:, :size].reshape(shape)


def _powers(device: torch.device) -> Tensor:
    """Of 2, in the type of packed bits: eight times less memory than in that of a range."""
    return (2 ** torch.arange(8, device=device)).to(torch.uint8)

"""Binarising activations by their settings, and scales that are fixed after training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thinet.quantization.residual import residual_binarize, residual_scales
from thinet.quantization.settings import Quantizer

_MOMENTUM = 0.1  # of running scales, as of BatchNorm


class ConstantScales(nn.Module):
    """Scales that are running means in training, and fixed afterwards.

    Args:
        order: K.
    """

    scales: Tensor
    started: Tensor

    def __init__(self, order: int) -> None:
        super().__init__()
        self.register_buffer("scales", torch.ones(order))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """``(K,)``: in training those of the batch, of all processes together."""
        return self._moved(x) if self.training else self.scales

    @torch.no_grad()
    def _moved(self, x: Tensor) -> Tensor:
        order = len(self.scales)
        axes = tuple(range(x.dim()))
        found = residual_scales(x, order, axes, _of_all).flatten().to(self.scales)
        moved = torch.where(self.started, self.scales.lerp(found, _MOMENTUM), found)
        self.scales.copy_(moved)
        self.started.fill_(True)
        return found


def _of_all(scale: Tensor) -> Tensor:
    """The mean over all processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(scale)
        scale = scale / torch.distributed.get_world_size()
    return scale


def quantized(x: Tensor, quantizer: Quantizer, constant: ConstantScales | None) -> Tensor:
    """``x`` binarised; of ``patch`` it has to be columns ``(N, n, P)``."""
    scale = quantizer.scale if constant is None else constant(x)
    return residual_binarize(x, quantizer.order, scale, quantizer.clip)

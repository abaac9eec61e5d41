"""How activations are binarised: order, scale and gradient window, and scales that are fixed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thinet.base.errors import SettingError, ThinetError
from thinet.base.values import is_number, shown
from thinet.quantization.residual import (
    SCALES,
    check_order,
    residual_binarize,
    residual_scales,
)

_MOMENTUM = 0.1  # of running scales, as of BatchNorm


@dataclass(frozen=True)
class Quantizer:
    """Settings of the binarisation of activations.

    Attributes:
        order: K, the number of bits of an activation.
        scale: What each b_k is the mean of: see :data:`thinet.quantization.residual.SCALES`;
            ``constant`` ones are running means of the training batches'.
        clip: Where the straight-through gradient ends.

    Raises:
        ThinetError: If a value makes no sense.
    """

    order: int = 2
    scale: str = "sample"
    clip: float = 1.0

    def __post_init__(self) -> None:
        check_order(self.order)
        if self.scale not in SCALES:
            raise ThinetError(
                f"scale={shown(self.scale)} is unknown: choose among {', '.join(SCALES)}."
            )
        if not is_number(self.clip) or not 0 < self.clip <= 1000:
            raise SettingError(f"clip={shown(self.clip)} is not a positive number", "clip", "1.0")


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
        found = residual_scales(x, order, axes).flatten().to(self.scales)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(found)
            found = found / torch.distributed.get_world_size()
        moved = torch.where(self.started, self.scales.lerp(found, _MOMENTUM), found)
        self.scales.copy_(moved)
        self.started.fill_(True)
        return found


def quantized(x: Tensor, quantizer: Quantizer, constant: ConstantScales | None) -> Tensor:
    """``x`` binarised; of ``patch`` it has to be columns ``(N, n, P)``."""
    scale = quantizer.scale if constant is None else constant(x)
    return residual_binarize(x, quantizer.order, scale, quantizer.clip)

"""Strides, padding and dilation of a convolution, apart from its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class Geometry:
    """Where the filters of a convolution look.

    Attributes:
        kernel: Height and width.
        stride: Of both.
        dilation: Of both.
        sides: Padding left, right, top and bottom.
        mode: Of padding, in torch's words.
    """

    def __init__(self, layer: Any) -> None:
        self.kernel, self.stride, self.dilation = (
            (int(one[0]), int(one[1])) for one in (layer.kernel_size, layer.stride, layer.dilation)
        )
        self.mode: str = layer.padding_mode
        if isinstance(layer.padding, str):
            self.sides = [0, 0, 0, 0]
            if layer.padding == "same":
                totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
                left, top = totals[1] // 2, totals[0] // 2
                self.sides = [left, totals[1] - left, top, totals[0] - top]
        else:
            high, wide = (int(one) for one in layer.padding)
            self.sides = [wide, wide, high, high]

    def padded(self, x: Tensor) -> Tensor:
        """In torch."""
        return F.pad(x, self.sides, "constant" if self.mode == "zeros" else self.mode)

    def columns(self, x: Tensor) -> Tensor:
        """What a filter sees at each position: ``(N, C, H, W)`` to ``(N, C kh kw, P)``."""
        return F.unfold(self.padded(x), self.kernel, self.dilation, 0, self.stride)

    def sums(self, x: Tensor) -> Tensor:
        """Of ``(N, 1, H, W)`` over what a filter sees: ``(N, 1, h, w)``."""
        ones = torch.ones(1, 1, *self.kernel, dtype=x.dtype)
        return F.conv2d(self.padded(x), ones, None, self.stride, 0, self.dilation)

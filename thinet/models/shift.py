"""A learnable shift of each channel, and the activation of ReActNet that is built of it.

Source: Liu, Shen, Savvides, Cheng, "ReActNet: Towards Precise Binary Neural Network with
Generalized Activation Functions", ECCV 2020 (RSign: a shift before the sign; RPReLU: shift, PReLU,
shift).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Shift(nn.Module):
    """Adds a learnable constant to each channel: ``(N, C, ...)`` to the same shape.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` shifted."""
        return x + self.bias.view(-1, *[1] * (x.dim() - 2))

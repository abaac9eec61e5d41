"""A learnable shift of each channel, and the activation of ReActNet that is built of it.

Source: Liu, Shen, Savvides, Cheng, "ReActNet: Towards Precise Binary Neural Network with
Generalized Activation Functions", ECCV 2020 (RSign: a shift before the sign; RPReLU).
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


def activation(channels: int, prelu: bool) -> nn.Module:
    """A ReLU, or ReActNet's RPReLU: a shift, a PReLU with a slope a channel, and a shift.

    Args:
        channels: C.
        prelu: Which of them.
    """
    if not prelu:
        return nn.ReLU()
    return nn.Sequential(Shift(channels), nn.PReLU(channels), Shift(channels))


def normalised(channels: int, shift: bool) -> list[nn.Module]:
    """What stands in front of a convolution that may become binary: signed numbers.

    Args:
        channels: C.
        shift: Whether a learnable shift follows the BatchNorm, as in ReActNet's RSign.
    """
    return [nn.BatchNorm2d(channels), *([Shift(channels)] if shift else [])]

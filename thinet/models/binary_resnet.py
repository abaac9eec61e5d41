"""Residual networks in the order that binary layers need, here in full precision.

Source: Liu et al., "Bi-Real Net", ECCV 2018: a real-valued shortcut around every single 3x3
convolution, downsampled by average pooling and a 1x1 convolution in full precision. BatchNorm
stands in front of each convolution, with no ReLU between, as in XNOR-Net's blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thinet.models import SMALL_IMAGE
from thinet.models.shift import activation, normalised


class Unit(nn.Module):
    """One 3x3 convolution beside a shortcut; maps ``(N, width_in, H, W)`` to
    ``(N, width, H / stride, W / stride)``.

    Args:
        width_in: Channels of the input.
        width: Channels of the output.
        stride: Of the convolution.
        prelu: ReActNet's RPReLU instead of ReLU.
        shift: A learnable shift in front of the convolution, ReActNet's RSign.
    """

    def __init__(self, width_in: int, width: int, stride: int, prelu: bool, shift: bool) -> None:
        super().__init__()
        self.norm = nn.Sequential(*normalised(width_in, shift))
        self.conv = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.act = activation(width, prelu)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or width != width_in:
            pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
            self.downsample = nn.Sequential(pool, nn.Conv2d(width_in, width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """What the convolution gives, rectified, plus the shortcut."""
        branch: Tensor = self.act(self.conv(self.norm(x)))
        shortcut: Tensor = self.downsample(x)
        return branch + shortcut


class BinaryResNet(nn.Module):
    """A stem, stages of units, BatchNorm, average pooling and one linear layer.

    Args:
        stem: Images ``(N, 3, H, W)`` to maps ``(N, widths[0], h, w)``.
        units: 3x3 convolutions in each stage.
        widths: Filters in each stage.
        num_classes: Width of the output ``(N, num_classes)``.
        prelu: See :class:`Unit`.
        shift: See :class:`Unit`.
    """

    full_precision = ("*.downsample.*",)

    def __init__(
        self,
        stem: nn.Module,
        units: Sequence[int],
        widths: Sequence[int],
        num_classes: int,
        prelu: bool,
        shift: bool,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.layers = nn.Sequential()
        channels = widths[0]
        for stage, (count, width) in enumerate(zip(units, widths, strict=True)):
            for place in range(count):
                stride = 2 if stage and not place else 1
                self.layers.append(Unit(channels, width, stride, prelu, shift))
                channels = width
        self.norm = nn.BatchNorm2d(channels)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
        x = self.norm(self.layers(self.stem(images)))
        logits: Tensor = self.linear(torch.flatten(self.avgpool(x), 1))
        return logits


def resnet20_binary(
    num_classes: int,
    image_size: int,
    widths: Sequence[int] = (16, 32, 64),
    prelu: bool = False,
    shift: bool = False,
) -> BinaryResNet:
    """ResNet-20 for small images: three stages of six 3x3 convolutions.

    Args:
        num_classes: Width of the output ``(N, num_classes)``.
        image_size: Pixels a side, any.
        widths: Filters in each stage.
        prelu: ReActNet's RPReLU instead of ReLU.
        shift: Learnable shifts in front of convolutions, ReActNet's RSign.
    """
    stem = _stem(widths[0], 3, stride=1)
    return BinaryResNet(stem, [6] * len(widths), widths, num_classes, prelu, shift)


def resnet18_binary(
    num_classes: int, image_size: int, prelu: bool = False, shift: bool = False
) -> BinaryResNet:
    """ResNet-18: four stages of four 3x3 convolutions; small images get a small stem.

    Args:
        num_classes: Width of the output ``(N, num_classes)``.
        image_size: Pixels a side.
        prelu: ReActNet's RPReLU instead of ReLU.
        shift: Learnable shifts in front of convolutions, ReActNet's RSign.
    """
    widths = (64, 128, 256, 512)
    stem = _stem(widths[0], 3, stride=1)
    if image_size > SMALL_IMAGE:
        stem = _stem(widths[0], 7, stride=2).append(nn.MaxPool2d(3, stride=2, padding=1))
    return BinaryResNet(stem, [4] * len(widths), widths, num_classes, prelu, shift)


def _stem(width: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(3, width, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())

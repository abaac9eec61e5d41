"""Residual networks for 32x32 images, of depth 6n + 2, with parameter-free shortcuts.

Source: He et al. 2016, section 4.2 (three stages of n basic blocks, widths 16, 32 and 64,
shortcut "option A").
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; maps ``(N, width_in, H, W)`` to
    ``(N, width, H / stride, W / stride)``.
    """

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.added = (width - width_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Residual branch plus shortcut, rectified."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride > 1 or self.added:
            # Option A: every other pixel, and zeros for the channels that are new.
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added, self.added))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """A stem, three stages of ``blocks`` blocks, average pooling and one linear layer.

    Args:
        blocks: Blocks in each stage, n; the depth is ``6 n + 2``.
        num_classes: Width of the output ``(N, num_classes)``.
    """

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16, stride=1)
        self.layer2 = _stage(blocks, 16, 32, stride=2)
        self.layer3 = _stage(blocks, 32, 64, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.flatten(self.avgpool(x), 1))
        return logits


# Fully convolutional up to the pool, so the builders take any image size.


def resnet14(num_classes: int, image_size: int) -> CifarResNet:
    """CIFAR-style ResNet-14."""
    return CifarResNet(2, num_classes)


def resnet20(num_classes: int, image_size: int) -> CifarResNet:
    """CIFAR-style ResNet-20."""
    return CifarResNet(3, num_classes)


def resnet32(num_classes: int, image_size: int) -> CifarResNet:
    """CIFAR-style ResNet-32."""
    return CifarResNet(5, num_classes)


def resnet44(num_classes: int, image_size: int) -> CifarResNet:
    """CIFAR-style ResNet-44."""
    return CifarResNet(7, num_classes)


def resnet56(num_classes: int, image_size: int) -> CifarResNet:
    """CIFAR-style ResNet-56: 0.85 million parameters, 0.25 GFLOPs at 32."""
    return CifarResNet(9, num_classes)


def resnet110(num_classes: int, image_size: int) -> CifarResNet:
    """CIFAR-style ResNet-110."""
    return CifarResNet(18, num_classes)


def _stage(blocks: int, width_in: int, width: int, stride: int) -> nn.Sequential:
    first = Block(width_in, width, stride)
    return nn.Sequential(first, *(Block(width, width, 1) for _ in range(blocks - 1)))

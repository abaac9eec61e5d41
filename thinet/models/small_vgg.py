"""A small VGG-style network with BatchNorm, which trains on digits in seconds."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from thinet.models.vgg import VggGap, check_size, initialise_


def vgg_small(num_classes: int, image_size: int, widths: Sequence[int] = (32, 64, 128)) -> VggGap:
    """Groups of two 3x3 convolutions and a max-pool, then average pooling and one linear layer.

    Args:
        num_classes: Width of the output ``(N, num_classes)``.
        image_size: Pixels a side.
        widths: Filters of both convolutions in each group.

    Raises:
        ThinetError: If halving once a group leaves nothing of the image.
    """
    check_size("vgg_small", image_size, smallest=2 ** len(widths))
    layers: list[nn.Module] = []
    channels = 3
    for width in widths:
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return initialise_(VggGap(nn.Sequential(*layers), channels, num_classes))

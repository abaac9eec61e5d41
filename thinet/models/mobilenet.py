"""MobileNetV2 of torchvision, in any width.

Layers and parameter names are torchvision's. Source: Sandler et al. 2018.
"""

from __future__ import annotations

import torchvision
from torch import nn
from torchvision.models import MobileNetV2

from thinet.models import SMALL_IMAGE


def mobilenet_v2(num_classes: int, image_size: int, width: float = 1.0) -> MobileNetV2:
    """MobileNetV2; the last convolution has 1280 filters in a narrow one too.

    For images of up to 64 pixels the stem and the second stage keep the size of the map, which
    would shrink to a point otherwise.

    Args:
        num_classes: Width of the output ``(N, num_classes)``.
        image_size: Pixels a side.
        width: Multiplies the filters of all other layers, rounded to a multiple of 8.
    """
    network = torchvision.models.mobilenet_v2(
        weights=None, num_classes=num_classes, width_mult=width
    )
    if image_size <= SMALL_IMAGE:
        for place in (0, 2):
            for module in network.features[place].modules():
                if isinstance(module, nn.Conv2d):
                    module.stride = (1, 1)
    return network

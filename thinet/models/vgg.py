"""VGG from torchvision, its variant for small images, and the paper's VGG-16 with average pooling.

Layers and parameter names are torchvision's. Source: Simonyan and Zisserman 2015 (configurations
A, B, D, E); Luo et al. 2017, ThiNet, section 4.2 (VGG-16-GAP).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import VGG
from torchvision.models.vgg import cfgs, make_layers

from thinet.base.errors import ThinetError
from thinet.models import SMALL_IMAGE

Network = TypeVar("Network", bound=nn.Module)


class VggGap(nn.Module):
    """VGG features, global average pooling and one linear layer.

    Args:
        features: Convolutions; images ``(N, 3, H, W)`` to maps ``(N, channels, h, w)``.
        channels: Channels of the last map.
        num_classes: Width of the output ``(N, num_classes)``.
    """

    def __init__(self, features: nn.Sequential, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
        pooled = torch.flatten(self.avgpool(self.features(images)), 1)
        logits: Tensor = self.classifier(pooled)
        return logits


def vgg11(num_classes: int, image_size: int) -> VGG:
    """VGG-11 (configuration A)."""
    return _vgg(torchvision.models.vgg11, num_classes, image_size)


def vgg11_bn(num_classes: int, image_size: int) -> VGG:
    """VGG-11 with BatchNorm."""
    return _vgg(torchvision.models.vgg11_bn, num_classes, image_size)


def vgg13(num_classes: int, image_size: int) -> VGG:
    """VGG-13 (configuration B)."""
    return _vgg(torchvision.models.vgg13, num_classes, image_size)


def vgg13_bn(num_classes: int, image_size: int) -> VGG:
    """VGG-13 with BatchNorm."""
    return _vgg(torchvision.models.vgg13_bn, num_classes, image_size)


def vgg16(num_classes: int, image_size: int) -> VGG:
    """VGG-16 (configuration D), the paper's main network: 30.94 GFLOPs at 224."""
    return _vgg(torchvision.models.vgg16, num_classes, image_size)


def vgg16_bn(num_classes: int, image_size: int) -> VGG:
    """VGG-16 with BatchNorm."""
    return _vgg(torchvision.models.vgg16_bn, num_classes, image_size)


def vgg19(num_classes: int, image_size: int) -> VGG:
    """VGG-19 (configuration E)."""
    return _vgg(torchvision.models.vgg19, num_classes, image_size)


def vgg19_bn(num_classes: int, image_size: int) -> VGG:
    """VGG-19 with BatchNorm."""
    return _vgg(torchvision.models.vgg19_bn, num_classes, image_size)


def vgg16_gap(num_classes: int, image_size: int, width: float = 1.0) -> VggGap:
    """The paper's VGG-16-GAP: no last max-pool, the 14x14 map averaged, one linear layer.

    Args:
        num_classes: Width of the output ``(N, num_classes)``.
        image_size: Pixels a side.
        width: Fraction of each layer's filters that is built, in (0, 1].

    Raises:
        ThinetError: If four halvings leave nothing of an ``image_size`` picture, or ``width`` is
            out of range.
    """
    check_size("vgg16_gap", image_size, smallest=16)
    if not 0 < width <= 1:
        raise ThinetError(
            f"width={width} of vgg16_gap is outside (0, 1]: give the fraction of filters to build, "
            "for example model.build.width=0.25."
        )
    device = torch.get_default_device()
    whole = cfgs["D"][:-1]  # without the last max-pool
    plan = [size if isinstance(size, str) else max(1, int(width * size)) for size in whole]
    with torch.device("meta"):
        network = VggGap(make_layers(plan), max(1, int(width * 512)), num_classes)
    return initialise_(network.to_empty(device=device))


def check_size(name: str, image_size: int, smallest: int) -> None:
    """Refuse images that pooling would shrink to nothing.

    Raises:
        ThinetError: If ``image_size`` is below ``smallest`` (both in pixels).
    """
    if image_size < smallest:
        raise ThinetError(
            f"{name} pools images of {image_size} pixels down to nothing: "
            f"type dataset.image_size={smallest} or more."
        )


def initialise_(network: Network) -> Network:
    """Draw all weights anew, so that a deep network without BatchNorm starts to learn at once.

    Convolutions and hidden linear layers keep the variance of their input ("fan in", He et al.
    2015); the last layer gets a deviation of 0.01. With torchvision's own choice ("fan out", and
    0.01 for every linear layer) the differences between images of 32 pixels arrive at the last
    convolution thirteen times smaller, dropout drowns them, and VGG-16 stays at chance on digits.
    """
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    nn.init.normal_(linear[-1].weight, 0, 0.01)
    return network


def _vgg(constructor: Callable[..., VGG], num_classes: int, image_size: int) -> VGG:
    """The network of torchvision; for small images with a 1x1 pool before the first linear layer.

    An image of 32 pixels ends in a 1x1 map, which the classic 7x7 pool would copy 49 times into a
    layer of 102 million weights. One copy and ``classifier.0 = Linear(512, 4096)`` can express
    the same functions; parameter names stay torchvision's.
    """
    check_size(constructor.__name__, image_size, smallest=32)
    if image_size > SMALL_IMAGE:
        return constructor(weights=None, num_classes=num_classes)
    device = torch.get_default_device()
    with torch.device("meta"):
        network = constructor(weights=None, num_classes=num_classes)
        network.avgpool = nn.AdaptiveAvgPool2d(1)
        network.classifier[0] = nn.Linear(512, 4096)
    return initialise_(network.to_empty(device=device))

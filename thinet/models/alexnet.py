"""AlexNet from torchvision, and narrower ones of the same layers.

Layers and parameter names are torchvision's. Source: Krizhevsky 2014 ("one weird trick").
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models import AlexNet

from thinet.base.errors import ThinetError
from thinet.models.vgg import check_size, initialise_


def alexnet(num_classes: int, image_size: int, width: float = 1.0) -> AlexNet:
    """AlexNet: 61.1 million parameters for 1000 classes.

    Args:
        num_classes: Width of the output ``(N, num_classes)``.
        image_size: Pixels a side, 63 or more.
        width: Fraction of the channels of each hidden layer that is built, in (0, 1].

    Raises:
        ThinetError: If strides and pooling leave nothing of the image, or ``width`` is out of
            range.
    """
    check_size("alexnet", image_size, smallest=63)
    if not 0 < width <= 1:
        raise ThinetError(
            f"width={width} of alexnet is outside (0, 1]: give the fraction of channels to build, "
            "for example model.build.width=0.5."
        )
    device = torch.get_default_device()
    with torch.device("meta"):
        network = AlexNet(num_classes)
        for part in (network.features, network.classifier):
            for name, module in part.named_children():
                part.add_module(name, _narrower(module, width))
        network.classifier[-1] = nn.Linear(max(1, int(width * 4096)), num_classes)
    return initialise_(network.to_empty(device=device))


def _narrower(module: nn.Module, width: float) -> nn.Module:
    """The layer with a fraction of its channels; the colours stay three."""

    def part(channels: int) -> int:
        return max(1, int(width * channels))

    if isinstance(module, nn.Conv2d):
        before = 3 if module.in_channels == 3 else part(module.in_channels)
        size, stride, padding = module.kernel_size[0], module.stride[0], module.padding[0]
        return nn.Conv2d(before, part(module.out_channels), size, stride, int(padding))
    if isinstance(module, nn.Linear):
        positions = 36 if module.in_features == 256 * 36 else 1  # the pooled map is 6x6
        before = part(module.in_features // positions) * positions
        return nn.Linear(before, part(module.out_features))
    return module

"""ResNet from torchvision, its variant for small images, and the paper's ResNet-50 v1.

Layers and parameter names are torchvision's. Source: He et al. 2016.
"""

from __future__ import annotations

from collections.abc import Callable

import torchvision
from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import Bottleneck

from thinet.models import SMALL_IMAGE


def resnet18(num_classes: int, image_size: int) -> ResNet:
    """ResNet-18 (basic blocks)."""
    return _resnet(torchvision.models.resnet18, num_classes, image_size)


def resnet34(num_classes: int, image_size: int) -> ResNet:
    """ResNet-34 (basic blocks)."""
    return _resnet(torchvision.models.resnet34, num_classes, image_size)


def resnet50(num_classes: int, image_size: int) -> ResNet:
    """ResNet-50 as torchvision has it ("v1.5", stride in the 3x3): 8.18 GFLOPs at 224."""
    return _resnet(torchvision.models.resnet50, num_classes, image_size)


def resnet101(num_classes: int, image_size: int) -> ResNet:
    """ResNet-101 (bottleneck blocks, stride in the 3x3)."""
    return _resnet(torchvision.models.resnet101, num_classes, image_size)


def resnet50_v1(num_classes: int, image_size: int) -> ResNet:
    """ResNet-50 of the original paper and of Caffe, the one ThiNet prunes: 7.72 GFLOPs at 224.

    A bottleneck that halves the map does so in its first 1x1 convolution rather than in the 3x3.
    Shapes of weights are those of ``resnet50``, so its weights load; but torchvision trained
    them with the stride in the 3x3, so they need fine-tuning before their accuracy means anything.
    """
    network = _resnet(torchvision.models.resnet50, num_classes, image_size)
    for block in network.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return network


def _resnet(constructor: Callable[..., ResNet], num_classes: int, image_size: int) -> ResNet:
    """The network of torchvision; for small images a 3x3 stem of stride 1 and no max-pool.

    The ImageNet stem divides the size by four, which leaves too little of a 32-pixel image.
    """
    network = constructor(weights=None, num_classes=num_classes)
    if image_size <= SMALL_IMAGE:
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return network

"""MobileNetV1: thirteen depthwise separable convolutions.

Source: Howard et al. 2017, table 1.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from thinet.models import SMALL_IMAGE

STEM = 32
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *([(512, 1)] * 5), (1024, 2),
          (1024, 1))  # fmt: skip
"""Filters and stride of each."""


class Separable(nn.Module):
    """A 3x3 filter a channel, then a 1x1 convolution: ``(N, width_in, H, W)`` to
    ``(N, width, H / stride, W / stride)``.
    """

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            width_in, width_in, 3, stride, padding=1, groups=width_in, bias=False
        )
        self.bn1 = nn.BatchNorm2d(width_in)
        self.pointwise = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        """Both, each with BatchNorm and ReLU."""
        maps = self.relu(self.bn1(self.depthwise(maps)))
        output: Tensor = self.relu(self.bn2(self.pointwise(maps)))
        return output


class MobileNetV1(nn.Module):
    """A stem, the blocks, average pooling and one linear layer.

    Args:
        num_classes: Width of the output ``(N, num_classes)``.
        width: Multiplies the filters of every layer, truncated.
        small: Whether stem and second block keep the size of the map, for small images.
    """

    def __init__(self, num_classes: int, width: float = 1.0, small: bool = False) -> None:
        super().__init__()
        sizes = [(int(filters * width), stride) for filters, stride in ((STEM, 2), *BLOCKS)]
        if small:
            sizes = [(filters, 1 if place in (0, 2) else stride)
                     for place, (filters, stride) in enumerate(sizes)]  # fmt: skip
        first, stride = sizes[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
        )
        pairs = pairwise(sizes)
        self.blocks = nn.Sequential(*(Separable(one, two, step) for (one, _), (two, step) in pairs))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(sizes[-1][0], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, 3, H, W)``."""
        maps = self.avgpool(self.blocks(self.stem(images)))
        logits: Tensor = self.classifier(maps.flatten(1))
        return logits


def mobilenet_v1(num_classes: int, image_size: int, width: float = 1.0) -> MobileNetV1:
    """MobileNetV1; for images of up to 64 pixels two strides fewer.

    Args:
        num_classes: Width of the output ``(N, num_classes)``.
        image_size: Pixels a side.
        width: Multiplies the filters of every layer.
    """
    return MobileNetV1(num_classes, width, image_size <= SMALL_IMAGE)

"""MobileNetV2 about 1.4 times as wide, from which MetaPruning searches narrower ones.

Source: the model files of Liu et al., MetaPruning, ICCV 2019. Unlike MobileNetV2 the first block
has an expansion too, of factor 1, so that its inner width is one of its own.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops.misc import Conv2dNormActivation

from thinet.models import SMALL_IMAGE

STEM, HEAD = 44, 1280
STAGES = ((1, 22, 1, 1), (6, 33, 2, 2), (6, 44, 3, 2), (6, 88, 4, 2), (6, 132, 3, 1),
          (6, 224, 3, 2), (6, 448, 1, 1))  # fmt: skip
"""Expansion, filters, blocks and stride of each."""


def _layer(width_in: int, width: int, size: int, stride: int = 1, groups: int = 1) -> nn.Module:
    layer: nn.Module = Conv2dNormActivation(
        width_in, width, size, stride, groups=groups, activation_layer=nn.ReLU6
    )
    return layer


class Inverted(nn.Module):
    """1x1, a 3x3 filter a channel, 1x1, beside a shortcut where the shape stays:
    ``(N, width_in, H, W)`` to ``(N, width, H / stride, W / stride)``.
    """

    def __init__(self, width_in: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.conv = nn.Sequential(
            _layer(width_in, inner, 1),
            _layer(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        # Told by the base widths: equal widths of a narrow network make no shortcut.
        self.shortcut = stride == 1 and width_in == width

    def forward(self, maps: Tensor) -> Tensor:
        """The three, and the input added to them."""
        made: Tensor = self.conv(maps)
        return maps + made if self.shortcut else made


class WideMobileNetV2(nn.Module):
    """A stem, the blocks, a 1x1 convolution, average pooling and one linear layer.

    Args:
        num_classes: Width of the output ``(N, num_classes)``.
        small: Whether stem and second stage keep the size of the map, for small images.
    """

    def __init__(self, num_classes: int, small: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = [_layer(3, STEM, 3, 1 if small else 2)]
        width_in = STEM
        for place, (expansion, width, blocks, stride) in enumerate(STAGES):
            for number in range(blocks):
                step = stride if number == 0 and not (small and place == 1) else 1
                layers.append(Inverted(width_in, width, step, expansion))
                width_in = width
        self.features = nn.Sequential(*layers, _layer(width_in, HEAD, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(HEAD, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, 3, H, W)``."""
        logits: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return logits


def mobilenet_v2_wide(num_classes: int, image_size: int) -> WideMobileNetV2:
    """The network; for images of up to 64 pixels two strides fewer.

    Args:
        num_classes: Width of the output ``(N, num_classes)``.
        image_size: Pixels a side.
    """
    return WideMobileNetV2(num_classes, image_size <= SMALL_IMAGE)

"""VGG-style networks in the order that binary layers need, here in full precision.

Source: Rastegari et al. 2016 (XNOR-Net): a block is BatchNorm, binarisation, convolution, pooling,
with pooling after the convolution, and no ReLU between BatchNorm and binarisation.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from thinet.models.shift import activation, normalised
from thinet.models.vgg import VggGap, check_size, initialise_


def vgg_binary(
    num_classes: int,
    image_size: int,
    widths: Sequence[int] = (128, 256, 512),
    prelu: bool = False,
    shift: bool = False,
    stem_stride: int = 1,
) -> VggGap:
    """Groups of two 3x3 convolutions, then BatchNorm, average pooling and one linear layer.

    The first convolution reads the images; each other one stands in a block of BatchNorm, shift (if
    asked for), convolution, max-pool (at the end of a group), activation.

    Args:
        num_classes: Width of the output ``(N, num_classes)``.
        image_size: Pixels a side.
        widths: Filters of both convolutions in each group.
        prelu: ReActNet's RPReLU instead of ReLU.
        shift: Learnable shifts in front of convolutions, ReActNet's RSign.
        stem_stride: Of the first convolution; 2 makes all others four times cheaper.

    Raises:
        ThinetError: If halving once a group leaves nothing of the image.
    """
    check_size("vgg_binary", image_size, smallest=stem_stride * 2 ** len(widths))
    layers: list[nn.Module] = []
    channels = 3
    for width in widths:
        for last in (False, True):
            if layers:
                layers += normalised(channels, shift)
            stride = stem_stride if not layers else 1
            layers.append(nn.Conv2d(channels, width, 3, stride, padding=1))
            if last:
                layers.append(nn.MaxPool2d(2))
            if channels != 3:  # nothing but BatchNorm between the first and the second
                layers.append(activation(width, prelu))
            channels = width
    layers.append(nn.BatchNorm2d(channels))
    return initialise_(VggGap(nn.Sequential(*layers), channels, num_classes))

"""LeNet-5 and networks of linear layers for MNIST, with the students of half of their widths.

Source: LeCun et al. 1998, in the form of the authors' code of Chen et al. 2019 (DAFL): rectifiers,
max-pooling, 61,706 parameters. The linear networks are those of the same paper's second pair, after
Hinton et al. 2015.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thinet.base.errors import ThinetError

LENET_SIZE = 32
"""Pixels a side that leave one position for the third 5x5 convolution."""


class LeNet(nn.Module):
    """Three 5x5 convolutions, a max-pool behind the first two, and two linear layers.

    Args:
        widths: Filters of the three convolutions and width of the hidden linear layer.
        num_classes: Width of the output ``(N, num_classes)``.
        grey: Whether the mean over the three channels of an image is read instead of all three.
    """

    def __init__(self, widths: Sequence[int], num_classes: int, grey: bool) -> None:
        super().__init__()
        first, second, third, hidden = widths
        self.grey = grey
        self.features = nn.Sequential(
            nn.Conv2d(1 if grey else 3, first, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(second, third, 5), nn.ReLU(),
        )  # fmt: skip
        self.fc1 = nn.Linear(third, hidden)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, 3, 32, 32)`` to logits ``(N, num_classes)``."""
        features = torch.flatten(self.features(read(images, self.grey)), 1)
        logits: Tensor = self.fc2(self.relu(self.fc1(features)))
        return logits


class Linears(nn.Module):
    """All pixels into linear layers with rectifiers between them.

    Args:
        pixels: Numbers read of an image.
        widths: Of the hidden layers.
        num_classes: Width of the output ``(N, num_classes)``.
        grey: See :class:`LeNet`.
    """

    def __init__(self, pixels: int, widths: Sequence[int], num_classes: int, grey: bool) -> None:
        super().__init__()
        self.grey = grey
        layers: list[nn.Module] = []
        for before, after in zip([pixels, *widths], widths, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear([pixels, *widths][-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
        pixels = torch.flatten(read(images, self.grey), 1)
        logits: Tensor = self.classifier(self.features(pixels))
        return logits


def lenet5(
    num_classes: int,
    image_size: int,
    widths: Sequence[int] = (6, 16, 120, 84),
    grey: bool = True,
) -> LeNet:
    """LeNet-5: 61,706 parameters for ten classes, 15,738 at half of its widths.

    Args:
        num_classes: Width of the output ``(N, num_classes)``.
        image_size: Pixels a side; it was made for 32.
        widths: Filters of the three convolutions and width of the hidden linear layer.
        grey: Whether one channel is read, the mean over the three of an image; images of MNIST
            have the same in all.

    Raises:
        ThinetError: If ``image_size`` is not 32, or ``widths`` are not four.
    """
    if image_size != LENET_SIZE:
        raise ThinetError(
            f"LeNet-5 reads images of {LENET_SIZE} pixels a side, not {image_size}: "
            f"type dataset.image_size={LENET_SIZE}."
        )
    if len(widths) != 4:
        raise ThinetError(
            f"LeNet-5 has four widths (three convolutions, a linear layer), not {len(widths)}: "
            "type model.build.widths=[6,16,120,84], for example."
        )
    return LeNet(widths, num_classes, grey)


def hinton_net(
    num_classes: int,
    image_size: int,
    widths: Sequence[int] = (1200, 1200),
    grey: bool = True,
) -> Linears:
    """A network of linear layers: 784-1200-1200-10 for MNIST at its 28 pixels.

    Args:
        num_classes: Width of the output ``(N, num_classes)``.
        image_size: Pixels a side.
        widths: Of the hidden layers.
        grey: See :func:`lenet5`.
    """
    return Linears(image_size**2 * (1 if grey else 3), widths, num_classes, grey)


def read(images: Tensor, grey: bool) -> Tensor:
    """The images ``(N, 3, H, W)``, or the mean over their channels ``(N, 1, H, W)``."""
    return images.mean(1, keepdim=True) if grey else images

"""The network that draws images from noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from thinet.synthesis.batchnorm import BatchStatistics2d


class Generator(nn.Module):
    """Noise to images in the normalised space of the network that they are drawn for.

    A linear layer makes a small map, two nearest-neighbour enlargements with convolutions make an
    image of it, and a last BatchNorm without factors gives every channel mean 0 and standard
    deviation 1: images come normalised, and no mean or deviation of a data set is needed.

    Source: Chen et al. 2019 (DAFL), as in the authors' code: with ``latent=100`` and one channel of
    32x32 pixels 1,049,985 parameters, with ``latent=1000`` and three 8,423,939.

    Args:
        shape: ``(C, H, W)`` of an image.
        latent: Numbers an image is drawn from.
        width: Channels of the first two maps; the last one has half of them. The paper's is 128.
        colours: Channels that are drawn: all, or 1 for grey images, repeated to ``C`` channels.
        eps: Of the BatchNorms between convolutions, 0.8 in the authors' code.

    Raises:
        ValueError: If a number is not positive, or colours are neither 1 nor ``C``.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        latent: int = 100,
        width: int = 128,
        colours: int | None = None,
        eps: float = 0.8,
    ) -> None:
        super().__init__()
        channels, height, wide = shape
        colours = channels if colours is None else colours
        if min(*shape, latent, width // 2) < 1 or colours not in (1, channels):
            raise ValueError(f"shape={shape}, latent={latent}, width={width}, colours={colours}")
        self.shape, self.latent = (channels, height, wide), latent
        half, map_size = width // 2, (math.ceil(height / 4), math.ceil(wide / 4))
        self.project = nn.Sequential(
            nn.Linear(latent, width * map_size[0] * map_size[1]),
            nn.Unflatten(1, (width, *map_size)),
            BatchStatistics2d(width),
        )
        self.draw = nn.Sequential(
            nn.Upsample(scale_factor=2.0),
            nn.Conv2d(width, width, 3, padding=1),
            BatchStatistics2d(width, eps),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2.0),
            nn.Conv2d(width, half, 3, padding=1),
            BatchStatistics2d(half, eps),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(half, colours, 3, padding=1),
            nn.Tanh(),
        )
        self.normalise = BatchStatistics2d(colours, affine=False)
        self.to(memory_format=torch.channels_last)  # 1.4 times as fast on a CPU

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.parameters()).device

    def forward(self, noise: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` from noise ``(N, latent)``."""
        channels, height, width = self.shape
        drawn = self.draw(self.project(noise))
        # Sides that are no multiples of 4 are cut out of the next larger ones.
        top, left = (drawn.shape[2] - height) // 2, (drawn.shape[3] - width) // 2
        images: Tensor = self.normalise(drawn[:, :, top : top + height, left : left + width])
        return images.expand(-1, channels, -1, -1) if len(images[0]) != channels else images

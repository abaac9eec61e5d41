"""Earlier images, and an average of those who drew them: against forgetting and collapse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from thinet.engine.gathering import everyones


class ImagePool(nn.Module):
    """The last images that were drawn, of all processes, in the order in which they came.

    It is part of the checkpoint.

    Args:
        size: How many.
        shape: ``(C, H, W)`` of each.
    """

    images: Tensor
    count: Tensor

    def __init__(self, size: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, *shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def put(self, own: Tensor) -> None:
        """Keep images ``(N, C, H, W)``; the oldest make room."""
        size, count = len(self.images), int(self.count)
        new = everyones(own.flatten(1)).view(-1, *own.shape[1:])[-size:]
        places = torch.arange(count, count + len(new), device=new.device) % size
        self.images[places] = new.to(self.images.dtype)
        self.count += len(new)

    def take(self, places: Tensor) -> Tensor:
        """Some of the images; there are :attr:`filled`.

        Args:
            places: Any whole numbers ``(N,)``.
        """
        return self.images[places.to(self.images.device) % self.filled]

    @property
    def filled(self) -> int:
        """How many there are by now."""
        return min(int(self.count), len(self.images))


def average_of(generator: nn.Module, decay: float) -> AveragedModel:
    """An exponential average of a generator, which moves with each ``update_parameters``."""
    averaging: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(generator, multi_avg_fn=averaging)
    return average.requires_grad_(False)

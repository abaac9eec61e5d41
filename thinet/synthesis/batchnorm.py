"""BatchNorm over the batch of all processes, on any device and in every mode the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from thinet.losses.precision import in_full


class _SumOfAll(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class BatchStatistics2d(nn.BatchNorm2d):
    """BatchNorm that always takes the statistics of the batch and keeps none.

    A generator is never evaluated otherwise, and so images that are drawn later are like those it
    was trained with. With several processes the batch is that of all of them, each with equally
    many images; torch's SyncBatchNorm does the same on a GPU alone.

    Args:
        features: Channels.
        eps: Added to the variance.
        affine: Whether there are learned factors and offsets.
    """

    def __init__(self, features: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__(features, eps=eps, affine=affine, track_running_stats=False)
        self.shared = True

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(N, C, H, W)``."""
        if not self.shared or not (dist.is_available() and dist.is_initialized()):
            return super().forward(x)
        world = dist.get_world_size()
        if world == 1:
            return super().forward(x)
        full = in_full(x)
        mean = self._of_all(full.mean((0, 2, 3)), world)
        apart = full - mean[:, None, None]  # of squares of large numbers the difference is nothing
        factor = self._of_all(apart.square().mean((0, 2, 3)), world).add(self.eps).rsqrt()
        if self.weight is not None:
            factor = factor * self.weight
        found = apart * factor[:, None, None]
        if self.bias is not None:
            found = found + self.bias[:, None, None]
        return found.to(x.dtype)

    @staticmethod
    def _of_all(own: Tensor, world: int) -> Tensor:
        total: Tensor = _SumOfAll.apply(own)  # type: ignore[no-untyped-call]
        return total / world


@contextmanager
def alone(module: nn.Module) -> Iterator[None]:
    """Within, a process draws by itself, while the others do something else."""
    layers = [one for one in module.modules() if isinstance(one, BatchStatistics2d)]
    for layer in layers:
        layer.shared = False
    try:
        yield
    finally:
        for layer in layers:
            layer.shared = True

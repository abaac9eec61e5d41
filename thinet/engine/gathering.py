"""The features of a whole batch, where each process computes those of its own images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def everyones(own: Tensor) -> Tensor:
    """The rows of all processes, in float32 at least, with gradient for those of this one.

    A loss of the result is the same on each process, and DDP averages gradients: to be that of a
    single process, the gradient of the own rows is multiplied by the number of processes.

    Args:
        own: ``(n, d)``; ``n`` may differ between processes, as where images could not be read.

    Returns:
        ``(sum of all n, d)``, process by process.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return own
    world, rank = dist.get_world_size(), dist.get_rank()
    own = own if own.element_size() >= 4 else own.float()
    counts = [torch.zeros(1, dtype=torch.int64, device=own.device) for _ in range(world)]
    dist.all_gather(counts, torch.tensor([len(own)], device=own.device))
    sizes = [int(count) for count in counts]
    padded = own.new_zeros(max(sizes), own.shape[1])
    padded[: len(own)] = own.detach()
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    rows = [part[:size] for part, size in zip(parts, sizes, strict=True)]
    if own.requires_grad:
        mine = own.clone()
        mine.register_hook(lambda gradient: world * gradient)
        rows[rank] = mine
    return torch.cat(rows)

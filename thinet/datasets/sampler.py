"""In which order, and on which rank, images are visited."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from thinet.base.seeding import derive_seed


class EpochSampler(Sampler[tuple[int, int]]):
    """A shuffled order that depends only on ``(seed, stage_key, epoch)``, sharded over ranks.

    It yields ``(position, seed)`` pairs: the seed of an image's augmentation travels with its
    position, so that the pixels are the same whichever worker or rank loads them, whatever else
    draws random numbers, and after a run was killed and resumed.

    Rank ``r`` of ``w`` takes the positions ``r, r + w, ...`` of the one common order, hence the
    images of step ``k`` are those of step ``k`` in a single process. Up to ``w - 1`` images, other
    ones every epoch, are left out so that all ranks take equally many steps.

    Args:
        length: Number of images.
        seed: Seed of the run.
        stage_key: What is being trained, so that stages do not repeat each other's order.
        epoch: First epoch; Lightning moves on by :meth:`set_epoch`.
        rank: This process.
        world: Number of processes.
    """

    def __init__(
        self, length: int, seed: int, stage_key: str, epoch: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.length = length
        self.seed = seed
        self.stage_key = stage_key
        self.epoch = epoch
        self.rank = rank
        self.world = world
        self._taken = (0, 0)

    def resume(self, epoch: int, taken: int) -> None:
        """Leave out the first ``taken`` images of this rank in ``epoch``; they were used before."""
        self._taken = (epoch, taken)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of ``epoch``; Lightning calls this at each epoch's start."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        base = derive_seed(self.seed, self.stage_key, self.epoch)
        order = torch.randperm(self.length, generator=torch.Generator().manual_seed(base))
        epoch, taken = self._taken
        mine = order[self.rank :: self.world][taken if epoch == self.epoch else 0 : len(self)]
        return ((position, base + position) for position in mine.tolist())


def eval_batches(length: int, batch_size: int, rank: int = 0, world: int = 1) -> list[list[int]]:
    """Batches of the images ``rank, rank + world, ...`` in order, none left out, none twice.

    All ranks get the same number of batches even where one has an image less: in the middle of
    training the network is wrapped in DDP, whose forward pass waits for the other ranks.

    Args:
        length: Number of images, at least ``world``.
        batch_size: Largest batch, at least 2 where there are several ranks.
        rank: This process.
        world: Number of processes.

    Returns:
        One list of positions per batch.
    """
    most = -(-length // world)
    steps = -(-most // batch_size)
    mine = torch.arange(rank, length, world)
    return [chunk.tolist() for chunk in torch.tensor_split(mine, max(steps, 1)) if len(chunk)]

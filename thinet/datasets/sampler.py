"""In which order, and on which rank, images are visited."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils.data import Sampler

from thinet.base.errors import ThinetError
from thinet.base.seeding import derive_seed

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingOrder:
    """What the order of training may depend on, so that it can be repeated.

    Attributes:
        seed: Of the run.
        stage_key: What is being trained.
        epoch: The first one; Lightning moves on by ``set_epoch``.
        rank: This process.
        world: How many there are.
    """

    seed: int
    stage_key: str
    epoch: int = 0
    rank: int = 0
    world: int = 1


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


def shuffled(length: int, batch_size: int, order: TrainingOrder) -> dict[str, Any]:
    """Settings of a DataLoader for this rank's share of images in a shuffled order.

    Args:
        length: Number of images.
        batch_size: Images a batch, over all ranks.
        order: What the order depends on.

    Raises:
        ThinetError: If the batch cannot be shared out equally over the ranks.
    """
    world = order.world
    if batch_size % world:
        raise ThinetError(
            f"finetune.batch_size={batch_size} cannot be shared by {world} processes: "
            f"type finetune.batch_size={-(-batch_size // world) * world}."
        )
    size = batch_size // world
    sampler = EpochSampler(
        length, order.seed, order.stage_key, order.epoch, order.rank, order.world
    )
    return {
        "batch_size": size,
        "sampler": sampler,
        # a batch of one has no variance for BatchNorm
        "drop_last": len(sampler) > size > 1 and len(sampler) % size == 1,
    }


class EpochBatches(Sampler[list[tuple[int, int]]], ABC):
    """Batches of images that a subclass puts together, for instance so many of each class.

    All processes make the same batches and take each its share of them. Like :class:`EpochSampler`
    it yields pairs of a position and a seed of its augmentation, and can go on within an epoch.

    Args:
        labels: The class of each training image.
        batch_size: Images a batch, over all processes.
        order: What the batches of an epoch derive from.
    """

    def __init__(self, labels: Sequence[int], batch_size: int, order: TrainingOrder) -> None:
        self.labels, self.batch_size, self.order = labels, batch_size, order
        self.epoch = order.epoch
        self._taken = (0, 0)

    @abstractmethod
    def batches(self, random: torch.Generator) -> list[list[int]]:
        """Positions in ``labels`` by batch: equally many batches in each epoch.

        Args:
            random: The only source of chance, seeded for the epoch.
        """

    def share(self, batch: list[T]) -> list[T]:
        """This rank's part of a batch: equally many for each.

        Rank ``r`` of ``w`` takes ``r, r + w, ...``, and up to ``w - 1`` at the end are left out.
        """
        rank, world = self.order.rank, self.order.world
        return batch[rank : len(batch) // world * world : world]

    @property
    def sampler(self) -> EpochBatches:
        """Itself: it is here that Lightning looks for ``set_epoch``."""
        return self

    def resume(self, epoch: int, taken: int) -> None:
        """Leave out the first ``taken`` batches of ``epoch``; they were used before."""
        self._taken = (epoch, taken)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of ``epoch``."""
        self.epoch = epoch

    def _seed(self) -> int:
        return derive_seed(self.order.seed, self.order.stage_key, self.epoch)

    def __len__(self) -> int:
        return len(self.batches(torch.Generator().manual_seed(self._seed())))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        seed = self._seed()
        epoch, taken = self._taken
        skipped = taken if epoch == self.epoch else 0
        before = 0  # an image may come twice in an epoch, and is augmented in another way then
        for number, batch in enumerate(self.batches(torch.Generator().manual_seed(seed))):
            seeded = [(position, seed + before + at) for at, position in enumerate(batch)]
            before += len(batch)
            if number >= skipped:
                yield self.share(seeded)


MakeBatches = Callable[[Sequence[int], int, TrainingOrder], EpochBatches]
"""From labels, images a batch and an order to batches: a subclass, or a partial call of one."""


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

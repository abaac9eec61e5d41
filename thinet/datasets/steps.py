"""Steps of training without images, for networks that make their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from thinet.base.seeding import derive_seed
from thinet.datasets.loader import Resumable
from thinet.datasets.sampler import TrainingOrder


class Step(NamedTuple):
    """The batch of a step without images.

    Attributes:
        epoch: From 0.
        number: Within the epoch, from 0.
        seed: Of whatever is drawn in it: another one on each process.
    """

    epoch: int
    number: int
    seed: int


@dataclass(frozen=True)
class Steps:
    """So many steps an epoch instead of batches of training images."""

    count: int


class StepSampler(Sampler[Step]):
    """The steps of an epoch.

    Args:
        count: How many each process takes.
        order: What their seeds derive from.
    """

    def __init__(self, count: int, order: TrainingOrder) -> None:
        self.count, self.order, self.epoch = count, order, order.epoch
        self._taken = (0, 0)

    def resume(self, epoch: int, taken: int) -> None:
        """Leave out the first ``taken`` steps of ``epoch``."""
        self._taken = (epoch, taken)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of ``epoch``."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Step]:
        order, (epoch, taken) = self.order, self._taken
        for number in range(taken if epoch == self.epoch else 0, self.count):
            place = (self.epoch, number, order.rank)
            yield Step(self.epoch, number, derive_seed(order.seed, order.stage_key, "step", *place))


class _Itself(Dataset[Step]):
    """What the sampler yields is the batch."""

    def __getitem__(self, step: Step) -> Step:
        return step


class StepLoader(Resumable, DataLoader[Step]):
    """Steps in place of batches; a checkpoint taken within an epoch sets it to its place.

    Args:
        steps: How many.
        order: What their seeds derive from.
        done: How many steps of the current epoch have been trained.
    """

    def __init__(self, steps: Steps, order: TrainingOrder, done: Callable[[], int]) -> None:
        self.done = done
        seed = derive_seed(order.seed, "loader")  # so that starting it draws nothing from the run's
        super().__init__(
            _Itself(),
            batch_size=None,
            sampler=StepSampler(steps.count, order),
            generator=torch.Generator().manual_seed(seed),
        )

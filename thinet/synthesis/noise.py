"""Noise that depends on its place in a training alone, and is another on each process."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from thinet.base.seeding import derive_seed
from thinet.datasets.steps import Step


def place() -> tuple[int, int]:
    """This process and how many there are."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


@dataclass(frozen=True)
class Noise:
    """Normal noise for the batches of a training.

    Several processes draw the noise of the whole batch and take their own rows of it: together
    they see what a single one would.

    Attributes:
        seed: What it derives from.
        batch_size: Rows of the whole batch.

    Raises:
        ValueError: If the batch cannot be shared out equally over the processes.
    """

    seed: int
    batch_size: int

    @property
    def rows(self) -> int:
        """Rows of this process.

        Raises:
            ValueError: If not all processes have equally many.
        """
        _, world = place()
        if self.batch_size % world:
            raise ValueError(f"{self.batch_size} images for {world} processes")
        return self.batch_size // world

    def draw(self, step: Step, number: int, *shape: int) -> Tensor:
        """This process's rows ``(n, *shape)``, on the CPU, the same for every device.

        Args:
            step: Of the training.
            number: How many were drawn in this step before.
            shape: Of a row.
        """
        whole = torch.randn(self.batch_size, *shape, generator=self._random(step, number))
        return self._own(whole)

    def places(self, step: Step, number: int) -> Tensor:
        """Random whole numbers ``(n,)`` of this process; arguments as above."""
        random = self._random(step, number)
        return self._own(torch.randint(2**40, (self.batch_size,), generator=random))

    def deal(self, share: float, parts: int) -> list[Tensor]:
        """Which rows of this process go to whom, when a share of the whole batch is dealt out.

        The rows of a share lie evenly over the batch, and so over the processes.

        Args:
            share: Of the rows, from 0 to 1.
            parts: Among how many they are dealt out.

        Returns:
            Places within this process's rows: first those of the rest, then of each part.
        """
        before = (share * torch.arange(self.batch_size + 1, dtype=torch.float64)).floor().long()
        dealt = torch.where(before.diff() > 0, before[:-1] % max(parts, 1), -1)
        own = self._own(dealt)
        return [(own == part).nonzero().flatten() for part in range(-1, parts)]

    def _random(self, step: Step, number: int) -> torch.Generator:
        seed = derive_seed(self.seed, "noise", step.epoch, step.number, number)
        return torch.Generator().manual_seed(seed)

    def _own(self, whole: Tensor) -> Tensor:
        rank, _ = place()
        return whole[rank * self.rows : (rank + 1) * self.rows]

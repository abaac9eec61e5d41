"""The common ground of all statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from thinet.base.values import flag, number, whole
from thinet.surgery import Group
from thinet.surgery.calls import WeightCall


@dataclass(frozen=True)
class Sampling:
    """How much of the calibration images a statistic looks at.

    Attributes:
        locations: (filter, location) pairs sampled in each image; the paper takes 10.
        rows_per_channel: Least rows for each unknown of the least squares. Where ``locations``
            give fewer, more locations are taken: with 120 rows the least squares of a 512-channel
            layer is exactly zero and worthless.
        positions: Positions of each image that feed the patch moments of ``refit``; null for all.
        exact: Form the contributions' second moments over all filters of the next layer from its
            patch moments, instead of sampling pairs.
        seed: Of the draws, which depend on it, the layer and the image's number alone.
    """

    locations: int = 10
    rows_per_channel: float = 5.0
    positions: int | None = 256
    exact: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        whole("calibration.locations", self.locations, "10")
        if self.positions is not None:
            whole("calibration.positions", self.positions, "10")
        flag("calibration.exact", self.exact)
        number("calibration.rows_per_channel", self.rows_per_channel, "5")
        # As an int of Python's: the draws depend on the type, too.
        object.__setattr__(self, "seed", whole("calibration.seed", self.seed, "0", least=0))


def second_moments(rows: Tensor) -> Tensor:
    """X^T X, ``(C, C)``, for rows X of shape ``(m, C)``.

    On the CPU numpy forms it, because it uses the symmetry: half the arithmetic of torch's product.
    """
    if rows.device.type == "cpu":
        X = rows.detach().numpy()
        with np.errstate(all="ignore"):  # what is not finite is reported with the layer's name
            return torch.from_numpy(X.T @ X)
    return rows.T @ rows


def widened(values: Tensor) -> Tensor:
    """Values of half precision in float32: sums and products of them overflow, or round away."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


class Summary(Protocol):
    """What a statistic says in the end."""

    @property
    def rows(self) -> int:
        """Samples behind it, over all ranks."""


T = TypeVar("T", bound=Summary)


class Statistic(Metric, ABC, Generic[T]):
    """Streams calls of one group's consumers into states that add up over batches and ranks.

    States are sums (``dist_reduce_fx="sum"``), in float64; samples are never stored.
    """

    full_state_update = False

    @classmethod
    @abstractmethod
    def for_group(cls, group: Group, sampling: Sampling, images: int) -> Self:
        """The statistic of ``group``.

        Args:
            group: Whose units are to be judged.
            sampling: How much to look at.
            images: How many calibration images there are, over all ranks.
        """

    @property
    @abstractmethod
    def watched(self) -> dict[str, int]:
        """Weights whose calls are wanted, with their number of calls in one forward pass."""

    @abstractmethod
    def update(
        self, call: WeightCall, output: Tensor, weight: Tensor, images: list[int], turn: int
    ) -> None:
        """Take in one call.

        Args:
            call: The call; ``call.input`` is ``(N, channels, height, width)`` or
                ``(N, features)``, float32 at least, whatever the network's type.
            output: What the operation returned, float32 at least.
            weight: The weight it used.
            images: The calibration number of each of the N images.
            turn: Which use of this weight it is in this pass, from 0.
        """

    @abstractmethod
    def summary(self) -> T:
        """What the states say; call it within ``sync_context()`` to sum over ranks."""

    def compute(self) -> Any:
        """The summary over all ranks, as torchmetrics has it."""
        return self.summary()

"""What judges widths without training a network for each of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from thinet.base.records import JSON
from thinet.engine.engine import Engine
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.run.setup import Setup
from thinet.surgery import ChannelGraph
from thinet.widths.space import Genes, Space

Judge = Callable[[Genes], float]
"""From widths to the top-1 error on validation images, in [0, 1]; depends on nothing before it."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is searched in.

    Attributes:
        network: At full width; on the ``meta`` device where things are only tried.
        graph: Its trace.
        space: The widths to choose among.
        shape: ``(C, H, W)`` of an image.
    """

    network: nn.Module
    graph: ChannelGraph
    space: Space
    shape: tuple[int, ...]


Batches = Iterable[tuple[Tensor, Tensor]]
"""Images ``(N, C, H, W)`` and labels ``(N,)`` on the CPU; each pass gives the same."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """The images that widths are judged on, the same on every process.

    Attributes:
        calibration: Training images, not augmented.
        validation: Images that nothing is trained on.
    """

    calibration: Batches
    validation: Batches

    def images(self, device: torch.device) -> Iterable[Tensor]:
        """The calibration images where a network is; each pass gives the same."""
        return _Images(self.calibration, device)


@dataclass(frozen=True, eq=False)
class _Images:
    batches: Batches
    device: torch.device

    def __iter__(self) -> Iterator[Tensor]:
        for images, _ in self.batches:
            yield images.to(self.device)


class Proxy(ABC):
    """Ranks widths; its errors are no accuracies to expect.

    Attributes:
        name: As ``conf/proxy`` calls it.
        title: Of what is trained for it, for people.
        trained: Whether it looks at the weights of the network, which is then trained before.
        learns: Whether something is trained for it.
    """

    name: ClassVar[str]
    title: ClassVar[str] = "proxy"
    trained: ClassVar[bool] = False
    learns: ClassVar[bool] = False

    @property
    def described(self) -> dict[str, JSON]:
        """How it was made: with other settings, what was trained for it means something else."""
        return {}

    @abstractmethod
    def check(self, task: Task, setup: Setup) -> int:
        """Try on paper what can be tried.

        Returns:
            Parameters of what is trained for it; 0 for none.

        Raises:
            ThinetError: If it cannot judge this network, or does not fit into memory.
        """

    def make(self, task: Task, setup: Setup) -> nn.Module | None:
        """What is trained for it, as it begins; None for nothing."""
        return None

    def train(  # noqa: B027  # some learn nothing
        self, made: nn.Module, setup: Setup, engine: Engine, phase: Phase, training: Training,
        folder: Path,
    ) -> None:  # fmt: skip
        """Train what :meth:`make` made, in place; a killed call goes on after its last epoch."""

    @abstractmethod
    def judge(
        self, task: Task, made: nn.Module | None, evidence: Evidence, engine: Engine
    ) -> Judge:
        """What judges widths, each call by itself, on one process.

        Args:
            task: What is searched in, with the network's weights, on the engine's device.
            made: From :meth:`make`, trained, on the engine's device.
            evidence: The images.
            engine: For its device and its seed.
        """

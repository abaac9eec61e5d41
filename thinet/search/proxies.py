"""Networks of any widths as judges: with generated weights (the paper), or with shared ones."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from thinet.base.records import JSON, to_json
from thinet.base.seeding import derive_seed
from thinet.engine.engine import Engine
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.run.setup import Setup
from thinet.search.fitness import judge
from thinet.search.hypernet import PruningNet
from thinet.search.memory import check_memory
from thinet.search.objective import AnyWidths
from thinet.search.settings import EACH, Making
from thinet.training.proxy import Evidence, Judge, Proxy, Task

KEY = "hypernetwork"
"""What order and augmentation of the images derive from, and the widths of each batch."""


class Hypernet(Proxy):
    """Judges widths by the error of a network whose weights a hypernetwork makes for them.

    Source: Liu et al., MetaPruning, ICCV 2019.

    Args:
        making: See :class:`thinet.search.settings.Making`.
    """

    name: ClassVar[str] = "hypernet"
    title: ClassVar[str] = KEY
    generate: ClassVar[bool] = True
    learns: ClassVar[bool] = True

    def __init__(self, **making: Any) -> None:
        self.making = Making(**making, generate=self.generate)

    @property
    def described(self) -> dict[str, JSON]:
        """How weights are made."""
        return to_json(self.making)

    def check(self, task: Task, setup: Setup) -> int:
        """Parameters of the hypernetwork.

        Raises:
            ThinetError: If it does not fit into memory.
        """
        return check_memory(
            task.network, task.graph, task.space, self.making, _device(setup), typed=True
        )

    def make(self, task: Task, setup: Setup) -> PruningNet:
        """The hypernetwork with random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(setup.seed, KEY))
            return PruningNet(task.network, task.graph, task.space, self.making)

    def train(
        self, made: nn.Module, setup: Setup, engine: Engine, phase: Phase, training: Training,
        folder: Path,
    ) -> None:  # fmt: skip
        """Train it with other widths for every batch."""
        assert isinstance(made, PruningNet)
        seed = derive_seed(setup.seed, KEY, "widths")
        objective = AnyWidths(made, [phase], training, seed)
        engine.train(objective, KEY, folder, title=self.title, validated=False)

    def judge(
        self, task: Task, made: nn.Module | None, evidence: Evidence, engine: Engine
    ) -> Judge:
        """The error of the generated network, its BatchNorm statistics estimated anew."""
        assert isinstance(made, PruningNet)
        net = made.to(engine.device).eval()
        return partial(
            judge, net, images=evidence.images(engine.device), validation=evidence.validation
        )


class Shared(Hypernet):
    """Judges widths by the error of one network whose leading channels are used.

    The paper's ablation: all widths share the weights, and nothing generates them.

    Args:
        norms: See :class:`thinet.search.settings.Making`; ``affine`` too.
        affine: As above.
    """

    name: ClassVar[str] = "shared"
    title: ClassVar[str] = "shared weights"
    generate: ClassVar[bool] = False

    def __init__(self, norms: str = EACH, affine: bool = False) -> None:
        super().__init__(norms=norms, affine=affine)


def _device(setup: Setup) -> torch.device:
    cpu = setup.devices.accelerator == "cpu" or not torch.cuda.is_available()
    return torch.device("cpu" if cpu else "cuda")

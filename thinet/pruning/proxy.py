"""Widths judged by one-shot pruning of the trained network."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from thinet.base.errors import ThinetError
from thinet.engine.engine import Engine
from thinet.metrics.top1 import top1_error
from thinet.pruning.criteria import Criterion
from thinet.pruning.group import Calibration
from thinet.pruning.oneshot import OneShot
from thinet.pruning.plan import check_statistics
from thinet.pruning.reconstruction import Reconstruction
from thinet.pruning.registry import choose
from thinet.pruning.settings import Choosing
from thinet.pruning.statistics import Sampling
from thinet.run.setup import Setup
from thinet.surgery import recalibrate_
from thinet.training.proxy import Evidence, Judge, Proxy, Task
from thinet.widths.space import Genes

BATCH = 64
"""Images a pass that statistics are collected on."""


class Prune(Proxy):
    """The error that pruning the trained network to the widths leaves, without fine-tuning.

    Nothing is trained for it. See :class:`thinet.pruning.oneshot.OneShot` for what is cut, and what
    is not as in a run of ``method=prune``. Statistics of BatchNorm are then estimated anew.

    Args:
        criterion: As :func:`thinet.prune` takes it.
        reconstruction: Likewise.
        positions: Of each image that a least squares of the next layer looks at; None for all. Few
            of them make the time shorter that passes before the first candidate is judged.
    """

    name: ClassVar[str] = "prune"
    trained: ClassVar[bool] = True

    def __init__(
        self,
        criterion: str | Criterion = "thinet",
        reconstruction: str | Reconstruction = "refit",
        positions: int | None = 32,
    ) -> None:
        made: Any = Criterion, Reconstruction  # mypy wants no abstract class where one is wanted
        self._criterion: Criterion = choose("criteria", criterion, made[0])
        self._reconstruction: Reconstruction = choose("reconstruction", reconstruction, made[1])
        self._positions = Sampling(positions=positions).positions
        if self._reconstruction.aims_at_original:
            raise ThinetError(
                "proxy=prune corrects layers for the inputs they have in the full network, and "
                "target=original is for inputs that earlier cuts have changed: take target=current."
            )

    def check(self, task: Task, setup: Setup) -> int:
        """See :meth:`Proxy.check`."""
        choosing = Choosing(
            self._criterion, self._reconstruction, "after", self._sampling(setup.seed), BATCH
        )
        check_statistics(task.network, task.graph, choosing, task.space.names)
        return 0

    def judge(
        self, task: Task, made: nn.Module | None, evidence: Evidence, engine: Engine
    ) -> Judge:
        """See :meth:`Proxy.judge`."""
        pairs = list(evidence.calibration)
        images = [image for batch, _ in pairs for image in batch]
        labels = torch.cat([classes.cpu() for _, classes in pairs])
        shown = evidence.images(engine.device)
        calibration = Calibration(images, self._sampling(engine.seed), BATCH, labels=labels)
        cut = OneShot(
            task.network, task.graph, task.space.names, self._criterion, self._reconstruction,
            calibration,
        )  # fmt: skip

        def error(genes: Genes) -> float:
            network = cut.at(task.space.widths(genes))
            recalibrate_(network, shown, advice="take another criterion or proxy")
            return top1_error(network, evidence.validation)

        return error

    def _sampling(self, seed: int) -> Sampling:
        return Sampling(positions=self._positions, seed=seed)

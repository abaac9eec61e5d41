"""Training a PruningNet with other widths for every batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from thinet.engine.objective import Objective, Update
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.models.classifier import logits_in
from thinet.search.hypernet import PruningNet
from thinet.search.training import drawn
from thinet.widths.space import Genes


@dataclass(eq=False)
class AnyWidths(Objective):
    """Cross-entropy of the labels at widths that are drawn once a batch, for all processes alike.

    Source: Liu et al., MetaPruning, ICCV 2019, algorithm 1.

    Attributes:
        network: What makes weights.
        phases: The course of the learning rate.
        training: Its optimizer and the smoothing of the labels.
        seed: Of the widths.
    """

    network: PruningNet
    phases: Sequence[Phase]
    training: Training
    seed: int
    smaller = "proxy.lr=1e-2"
    _genes: Genes = field(default=(), init=False, repr=False)

    @property
    def updates(self) -> tuple[Update, ...]:
        """The one update."""
        weights = {"cross_entropy": 1.0}
        return (Update((self.network,), self._loss, weights, self.phases, self.training),)

    def begin_batch(self, step: int) -> None:
        """Draw its widths."""
        self._genes = drawn(self.network.space, np.random.default_rng([self.seed, step]))

    def _loss(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, labels = batch
        logits = logits_in(self.network(images, self._genes))
        smoothing = self.training.label_smoothing
        return {"cross_entropy": F.cross_entropy(logits, labels, label_smoothing=smoothing)}

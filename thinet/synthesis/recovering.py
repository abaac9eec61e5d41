"""Recovery of a cut network on images that nobody has labelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thinet.datasets.steps import Step
from thinet.engine.distilled import AGREEMENT, SOFT_TARGETS
from thinet.engine.objective import Objective, Update
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.losses import soft_targets
from thinet.models.classifier import logits_in


@dataclass(frozen=True, eq=False)
class Recovering(Objective):
    """Soft targets of a teacher on drawn images.

    Attributes:
        network: What is trained.
        teacher: Whose answers it learns.
        draw: The images of a step, on the teacher's device.
        phases: The course of the learning rate.
        training: Its optimizer.
        temperature: Of the soft targets.
        drawer: The generator behind ``draw``, if there is one.
    """

    network: nn.Module
    teacher: nn.Module
    draw: Callable[[Step], Tensor]
    phases: Sequence[Phase]
    training: Training
    temperature: float
    drawer: nn.Module | None = None

    @property
    def updates(self) -> tuple[Update, ...]:
        """The one update."""
        weights, watched = {SOFT_TARGETS: 1.0}, (AGREEMENT,)
        return (
            Update(
                (self.network,), self._loss, weights, self.phases, self.training, watched=watched
            ),
        )

    @property
    def frozen(self) -> Sequence[nn.Module]:
        """The teacher, and the generator."""
        return (self.teacher,) if self.drawer is None else (self.teacher, self.drawer)

    def _loss(self, step: Step) -> dict[str, Tensor]:
        with torch.no_grad():
            images = self.draw(step)
            taught = logits_in(self.teacher(images))
        logits = logits_in(self.network(images))
        return {
            SOFT_TARGETS: soft_targets(logits, taught, self.temperature),
            AGREEMENT: (logits.argmax(1) == taught.argmax(1)).float().mean(),
        }

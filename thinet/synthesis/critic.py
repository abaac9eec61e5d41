"""The network that images are drawn for, as their judge."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from thinet.base.errors import ThinetError
from thinet.engine.distilled import Pupil
from thinet.engine.gathering import everyones
from thinet.losses import (
    activation,
    batchnorm_statistics,
    information_entropy,
    one_hot,
)
from thinet.losses.precision import in_full
from thinet.surgery import without_autocast
from thinet.synthesis.settings import Losses
from thinet.synthesis.statistics import batchnorms, watching


@dataclass(frozen=True, eq=False)
class Critic:
    """A fixed network, in ``eval()`` mode and without gradients of its own, and what it looks at.

    Attributes:
        teacher: The network, and where its features are read.
        losses: The terms.

    Raises:
        ThinetError: If there are no statistics or features to look at.
    """

    teacher: Pupil
    losses: Losses

    def __post_init__(self) -> None:
        if self.losses.batchnorm and not batchnorms(self.network):
            raise ThinetError(
                "synthesis.losses.batchnorm compares with what BatchNorm layers have stored, and "
                "the teacher has none: type synthesis.losses.batchnorm=0."
            )
        if self.losses.activation and self.teacher.feature is None:
            raise ThinetError(
                "synthesis.losses.activation looks at the teacher's features, which cannot be "
                "read: type synthesis.losses.feature=<module>, or synthesis.losses.activation=0."
            )

    @property
    def network(self) -> nn.Module:
        """The network."""
        return self.teacher.network

    def judge(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the network says of images, and the terms of their loss.

        Under several processes classes and statistics are those of the whole batch.

        Args:
            images: ``(N, C, H, W)``, with gradient.

        Returns:
            Logits ``(N, K)``, and the terms that have a weight or are watched, by name; the
            adversarial one is not among them.
        """
        if not self.losses.batchnorm:
            logits, features = self.teacher.answer(images)
            return logits, self._terms(logits, features)
        with watching(self.network) as read:
            logits, features = self.teacher.answer(images)
            found, stored = read()
        return logits, self._terms(logits, features) | {
            "batchnorm": batchnorm_statistics(found, stored)
        }

    def _terms(self, logits: Tensor, features: Tensor | None) -> dict[str, Tensor]:
        losses = self.losses
        entropy = information_entropy(mean_classes(logits), losses.base, losses.entropy_reduction)
        size = (
            logits.new_zeros(())
            if features is None
            else activation(features, losses.activation_reduction)
        )
        return {"one_hot": one_hot(logits), "activation": size, "entropy": entropy}


@without_autocast
def mean_classes(logits: Tensor) -> Tensor:
    """The mean probability ``(K,)`` of each class over the batch of all processes."""
    return everyones(in_full(logits).softmax(1).mean(0, keepdim=True)).mean(0)

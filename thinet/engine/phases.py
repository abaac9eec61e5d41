"""Courses of the learning rate: phases of training that follow each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thinet.base.errors import SettingError, ThinetError

DECAYS = ("constant", "linear", "cosine", "step")


@dataclass(frozen=True)
class Phase:
    """Some epochs of fine-tuning with one course of the learning rate.

    Attributes:
        epochs: How many; 0 leaves the phase out.
        lr: The learning rate it begins with.
        decay: ``constant``; ``linear`` or ``cosine`` down to zero; or ``step``: a tenth after each
            third, which is the paper's 1e-3, 1e-4, 1e-5.
        warmup: Epochs at the beginning in which the rate rises linearly (fractions allowed).
    """

    epochs: int
    lr: float
    decay: str = "constant"
    warmup: float = 0.0

    def __post_init__(self) -> None:
        whole = isinstance(self.epochs, int) and not isinstance(self.epochs, bool)
        if not whole or self.epochs < 0:
            raise SettingError(
                f"epochs={self.epochs} is not a whole number of at least 0", "epochs", "1"
            )
        if not _is_number(self.lr) or not 0 < self.lr < math.inf:
            raise SettingError(f"lr={self.lr} is not a positive number", "lr", "1e-3")
        if self.decay not in DECAYS:
            raise ThinetError(f"decay={self.decay} is unknown: choose among {', '.join(DECAYS)}.")
        if not _is_number(self.warmup) or not 0 <= self.warmup < math.inf:
            raise SettingError(
                f"warmup={self.warmup} is not a number of epochs of at least 0", "warmup", "0.5"
            )

    def factor(self, epoch: float) -> float:
        """The learning rate after ``epoch`` epochs of the phase, relative to ``lr``."""
        if self.warmup and epoch < self.warmup:
            return (epoch + 1e-3) / (self.warmup + 1e-3)
        done = min(1.0, (epoch - self.warmup) / max(self.epochs - self.warmup, 1e-9))
        if self.decay == "linear":
            return 1 - done
        if self.decay == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if self.decay == "step":
            return 0.1 ** min(2, int(3 * done + 1e-9))
        return 1.0


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def learning_rate(phases: Sequence[Phase]) -> Callable[[float], float]:
    """The learning rate as a function of the epochs done, over phases that follow each other."""

    def rate(epoch: float) -> float:
        start = 0.0
        for phase in phases:
            if epoch < start + phase.epochs:
                return phase.lr * phase.factor(epoch - start)
            start += phase.epochs
        return phases[-1].lr * phases[-1].factor(phases[-1].epochs)

    return rate

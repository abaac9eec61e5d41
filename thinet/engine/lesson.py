"""What a student learns from, besides labels: the terms of the loss and their settings.

Read before torch is imported, so that a wrong value is reported at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from thinet.base.errors import SettingError, ThinetError
from thinet.base.values import is_number, is_whole, shown

KERNELS = ("mmd", "bilinear", "rbf")
"""As in :mod:`thinet.losses`, which needs torch."""
PRECISIONS = ("auto", "32-true", "bf16")


@dataclass(frozen=True)
class Lesson:
    """``alpha * cross-entropy + (1 - alpha) * soft targets + beta * correlation congruence``.

    Source: Peng et al. 2019, whose total loss this is.

    Attributes:
        alpha: Weight of the labels, in [0, 1]; the teacher's soft targets have the rest.
        temperature: Of the soft targets.
        beta: Weight of the correlation congruence; 0 for soft targets alone.
        kernel: ``mmd``, ``bilinear`` or ``rbf``: see :func:`thinet.losses.correlation`.
        gamma: Of ``rbf``.
        order: Highest power of the series of ``rbf``; None for the exact kernel.
        normalize: Whether features are brought to length 1 first.
        project: Length to which a linear layer of its own, trained too, brings the student's
            features; None compares them as they are.
        feature: Module whose input is the feature, of the student and of a teacher that has a
            module of this name; None finds the classifier.
        precision: Of the teacher: ``32-true``, ``bf16``, or ``auto`` for bf16 on a GPU.

    Raises:
        ThinetError: If a value makes no sense.
    """

    alpha: float = 0.1
    temperature: float = 4.0
    beta: float = 0.0
    kernel: str = "rbf"
    gamma: float = 0.4
    order: int | None = 2
    normalize: bool = True
    project: int | None = None
    feature: str | None = None
    precision: str = "auto"

    def __post_init__(self) -> None:
        if not is_number(self.alpha) or not 0 <= self.alpha <= 1:
            raise _wrong("alpha", self.alpha, "a fraction in [0, 1]", "0.1")
        for name, least, most, example in (
            ("temperature", 0.01, 1000, "4"), ("gamma", 1e-6, 1000, "0.4"), ("beta", 0, 1e6, "10")
        ):  # fmt: skip
            value = getattr(self, name)
            if not is_number(value) or not least <= value <= most:
                raise _wrong(name, value, f"a number from {least:g} to {most:g}", example)
        for name, most, example in (("order", 20, "2"), ("project", 2**16, "128")):
            value = getattr(self, name)
            if value is not None and (not is_whole(value) or not 1 <= value <= most):
                kind = f"a whole number from 1 to {most}, or null"
                raise _wrong(name, value, kind, example)
        if self.project is not None and not self.beta:
            raise ThinetError(
                f"distill.project={self.project} projects features for the correlation congruence, "
                "which has no weight: type distill=cckd, or distill.project=null."
            )
        if not isinstance(self.normalize, bool):
            raise _wrong("normalize", self.normalize, "true or false", "true")
        if self.feature is not None and (not isinstance(self.feature, str) or not self.feature):
            raise _wrong("feature", self.feature, "the name of a module", "fc")
        for name, choice in (("kernel", KERNELS), ("precision", PRECISIONS)):
            if getattr(self, name) not in choice:
                raise ThinetError(
                    f"distill.{name}={shown(getattr(self, name))} is unknown: choose among "
                    f"{', '.join(choice)}."
                )


def _wrong(name: str, value: Any, kind: str, example: str) -> SettingError:
    return SettingError(f"{name}={shown(value)} is not {kind}", name, example)

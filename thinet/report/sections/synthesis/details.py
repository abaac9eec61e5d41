"""What learning without data leaves in ``result.json``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from thinet.run.result import Measurement

KEY = "synthesis"
TOP1 = "val/top1"
"""The figure of an epoch that is an accuracy on validation images."""
PART, FEWEST = 0.1, 2
"""The epochs at the end over which accuracies are averaged: a tenth, and how many at least."""


@dataclass(frozen=True)
class EpochRow:
    """An epoch of the training whose generator was kept.

    Attributes:
        epoch: Its number, from 1.
        figures: Means as they are logged: ``train/generator``, its terms, ``train/loss`` of the
            student, ``train/agreement``; ``val/top1`` where there are images.
        classes: Which classes the teacher sees in the images drawn at its end, a count each.
        spread: Standard deviation over these images, mean over pixels and channels: 1 where they
            are as different as can be, 0 where they are all the same.
    """

    epoch: int
    figures: dict[str, float]
    classes: tuple[int, ...]
    spread: float

    @property
    def balance(self) -> float:
        """Entropy of the classes as a share of the largest there can be: 1 for equal counts."""
        total, count = sum(self.classes), len(self.classes)
        if count < 2 or not total:
            return 1.0
        shares = [one / total for one in self.classes if one]
        return -sum(share * math.log(share) for share in shares) / math.log(count) + 0.0


@dataclass(frozen=True)
class Control:
    """The same student, taught as long on something else than drawn images.

    Attributes:
        name: On what: ``noise``.
        measurement: Of the student.
    """

    name: str
    measurement: Measurement


@dataclass(frozen=True)
class LastEpochs:
    """The accuracies of the last epochs.

    Attributes:
        count: Of epochs.
        mean: A fraction.
        spread: Standard deviation over the epochs, a fraction.
    """

    count: int
    mean: float
    spread: float


@dataclass(frozen=True)
class SynthesisDetails:
    """What only learning without data knows.

    Attributes:
        teacher: Its name.
        student: Its name.
        mode: ``together`` or ``generator_first``.
        weights: Of the terms that images are drawn for.
        base: Of the logarithm of the entropy.
        entropy_reduction: Over classes: ``sum`` or ``mean``.
        activation_reduction: Over features: ``mean`` or ``sum``.
        learn: What the student minimises: ``kl`` or ``l1``.
        temperature: Of the soft targets.
        iterations: Of the training.
        images: Drawn for it in all.
        generator_parameters: How many the generator has.
        epochs: Of the training whose generator was kept.
        controls: What else the same student was taught on.
        alarms: Sentences.
        classes: Their names.
    """

    teacher: str
    student: str
    mode: str
    weights: dict[str, float]
    base: float
    entropy_reduction: str
    activation_reduction: str
    learn: str
    temperature: float
    iterations: int
    images: int
    generator_parameters: int
    epochs: tuple[EpochRow, ...]
    controls: tuple[Control, ...]
    alarms: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def accuracies(self) -> list[float]:
        """Of each epoch, on validation images; not a number where it is not known."""
        return [row.figures.get(TOP1, math.nan) for row in self.epochs]

    @property
    def last(self) -> LastEpochs | None:
        """Over the last tenth of the epochs; None where there are no two accuracies."""
        return last_tenth(self.accuracies)

    @property
    def best(self) -> EpochRow | None:
        """The epoch with the highest accuracy: a diagnostic, it was not chosen."""
        known = [row for row in self.epochs if math.isfinite(row.figures.get(TOP1, math.nan))]
        return max(known, key=lambda row: row.figures[TOP1], default=None)


def last_tenth(values: Sequence[float]) -> LastEpochs | None:
    """Mean and spread of the last tenth of the epochs, at least two.

    Args:
        values: Accuracies, an epoch each; those that are not finite are left out.

    Returns:
        None if there are fewer than two.
    """
    known = [value for value in values if math.isfinite(value)]
    last = known[-max(FEWEST, round(PART * len(known))) :]
    if len(last) < FEWEST:
        return None
    return LastEpochs(len(last), statistics.fmean(last), statistics.stdev(last))

"""What distillation leaves: whom a network learned from, and the same network taught by labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from thinet.report import numbers
from thinet.report.courses import courses
from thinet.report.sections.base import Plot, Section
from thinet.report.sections.distillation.figures import (
    CORRELATION,
    CROSS_ENTROPY,
    SHARE,
    SOFT_TARGETS,
    shares_figure,
    stage_bounds,
    terms_figure,
)
from thinet.report.table import Table, command, subject
from thinet.run.result import Measurement

KEY = "distillation"


@dataclass(frozen=True)
class Terms:
    """The terms of the loss; see :class:`thinet.engine.lesson.Lesson`.

    Attributes:
        alpha: Weight of the labels; soft targets have the rest.
        temperature: Of the soft targets.
        beta: Weight of the correlation congruence; 0 if it was none of them.
        kernel: Of the correlation.
        gamma: Of the kernel ``rbf``.
        order: Of its series; None for the exact kernel.
        normalize: Whether features were brought to length 1.
        project: Length that the student's were brought to by a layer of its own; None if as they
            are.
        feature: Module whose input was the feature; None for the classifier.
        precision: Of the teacher.
    """

    alpha: float
    temperature: float
    beta: float
    kernel: str
    gamma: float
    order: int | None
    normalize: bool
    project: int | None
    feature: str | None
    precision: str

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms as they are logged."""
        return {CROSS_ENTROPY: self.alpha, SOFT_TARGETS: 1 - self.alpha, CORRELATION: self.beta}

    def words(self) -> str:
        """The loss in one line."""
        terms = []
        if self.alpha:
            terms.append(f"{self.alpha:g} × cross-entropy of the labels")
        if self.alpha < 1:
            terms.append(f"{1 - self.alpha:g} × soft targets at temperature {self.temperature:g}")
        if self.beta:
            terms.append(f"{self.beta:g} × correlation congruence ({self._kernel()})")
        return " + ".join(terms)

    def _kernel(self) -> str:
        words = [self.kernel]
        if self.kernel == "rbf":
            order = "exact" if self.order is None else f"order {self.order}"
            words += [f"gamma {self.gamma:g}", order]
        words.append("features of length 1" if self.normalize else "features as they are")
        if self.project is not None:
            words.append(f"the student's projected to {self.project}")
        if self.feature is not None:
            words.append(f"input of {self.feature}")
        return ", ".join(words)


@dataclass(frozen=True)
class DistillationDetails:
    """What only distillation knows.

    Attributes:
        teacher: Its name; empty for the network that the run began with.
        student: Its name.
        sampler: How images were put into batches.
        terms: The terms of the loss.
        epochs: That student and control were trained for; None where there is no control.
        alone: Figures of the same student taught by labels alone; None if it was not.
    """

    teacher: str
    student: str
    sampler: str
    terms: Terms
    epochs: int | None = None
    alone: Measurement | None = None


@dataclass(frozen=True)
class Distillation(Section[DistillationDetails]):
    """The section of distillation: teacher, student alone, student distilled."""

    key: ClassVar[str] = KEY
    kind: ClassVar[type[object]] = DistillationDetails
    accuracies: ClassVar[Mapping[str, str]] = {"top1_alone": "labels alone"}

    def lines(self) -> Sequence[str]:
        """What it is worth, whom from, what the loss is made of, how to find what it is worth."""
        found = self.found
        whom = found.teacher or "the network that the run began with"
        said = [f"taught by {whom}: {found.terms.words()}; {found.sampler} batches"]
        if found.alone is not None:
            gain = numbers.points(found.alone.top1, self.result.final.top1)
            return [f"distilled against labels alone: {gain} of top-1", *said]
        if self.result.reference_is != "teacher":
            control = command(self.result, ("distill", "name"), "distill=none")
            said.append(f"the same by labels alone, to compare: {control}")
        return said

    def figures(self) -> Mapping[str, float | None]:
        """The accuracy of the control."""
        return {"top1_alone": self.found.alone.top1 if self.found.alone else None}

    def tables(self) -> Sequence[Table]:
        """Teacher, student alone, student distilled."""
        found, final = self.found, self.result.final
        if found.alone is None:
            return []
        of = None if found.epochs is None else f"{found.epochs} epochs each"
        rows = (
            _row(f"teacher {found.teacher}".rstrip(), self.result.reference),
            _row(f"student {found.student}, labels alone", found.alone),
            _row(f"student {found.student}, distilled", final),
        )
        note = "Student and control begin with the same weights"
        if self.found.sampler != "uniform":
            note += ", the control in shuffled batches"
        heads = ("", "top-1", "top-5", "FLOPs", "parameters", "latency")
        title = "Teacher, student by labels alone, student distilled"
        note = ", ".join(filter(None, (note, of)))
        return [Table(title, heads, rows, f"{note}.", brief=True, leading=True)]

    def logged(self, folder: Path) -> Sequence[Plot]:
        """The terms of the loss and their shares in the gradient, over the epochs."""
        found = courses(folder, SOFT_TARGETS)
        if not found:
            return []
        about = subject(self.result)
        bounds = stage_bounds(self.result.steps, len(found[SOFT_TARGETS]))
        weights = self.found.terms.weights
        plots = [
            Plot(
                "distillation_terms",
                "The terms of the loss on training images, before their weights, and how often "
                "student and teacher give the same class.",
                partial(terms_figure, found, weights, bounds, about),
            )
        ]
        if any(name.startswith(SHARE) for name in found):
            plots.append(
                Plot(
                    "distillation_gradients",
                    "The norm of the gradient of each weighted term at the input of the "
                    "student's classifier, as a share of the sum of all: a term with a thin "
                    "stripe is hardly learnt from.",
                    partial(shares_figure, found, bounds, about),
                )
            )
        return plots


def _row(name: str, one: Measurement) -> tuple[str, ...]:
    return (
        name,
        numbers.percent(one.top1),
        numbers.percent(one.top5),
        numbers.human(one.flops),
        numbers.human(one.params),
        numbers.milliseconds(one.latency_ms),
    )

"""What distillation leaves: whom a network learned from, and the same network taught by labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from thinet.base.records import JSON
from thinet.report import numbers
from thinet.report.sections.base import Section, StepFigure
from thinet.report.table import Table
from thinet.run.result import Measurement

KEY = "distillation"


@dataclass(frozen=True)
class DistillationDetails:
    """What only distillation knows.

    Attributes:
        teacher: Its name; empty for the network that the run began with.
        student: Its name.
        sampler: How images were put into batches.
        terms: The terms of the loss and their settings.
        epochs: That the student was trained for; None where there are several trainings.
        alone: Figures of the same student taught by labels alone; None if it was not.
    """

    teacher: str
    student: str
    sampler: str
    terms: dict[str, JSON]
    epochs: int | None = None
    alone: dict[str, float | None] | None = None


@dataclass(frozen=True)
class Distillation(Section[DistillationDetails]):
    """The section of distillation: teacher, student alone, student distilled."""

    key: ClassVar[str] = KEY
    kind: ClassVar[type[object]] = DistillationDetails
    step_figures: ClassVar[Mapping[str, StepFigure]] = {}
    accuracies: ClassVar[Mapping[str, str]] = {"top1_alone": "labels alone"}

    def lines(self) -> Sequence[str]:
        """Whom from, and what the loss is made of."""
        terms = self.found.terms
        loss = [f"{terms['alpha']} labels", f"{1 - float(str(terms['alpha'])):g} soft targets"]
        if terms.get("beta"):
            loss.append(f"{terms['beta']} correlation congruence ({terms['kernel']})")
        whom = self.found.teacher or "the network before it was cut"
        return [f"taught by {whom}: {' + '.join(loss)}, batches {self.found.sampler}"]

    def figures(self) -> Mapping[str, float | None]:
        """The accuracy of the control."""
        alone = self.found.alone
        return {"top1_alone": alone["top1"] if alone else None}

    def tables(self) -> Sequence[Table]:
        """Teacher, student alone, student distilled."""
        if self.found.alone is None:
            return []
        alone = self.found.alone
        final = self.result.final
        rows = (
            _row(f"teacher {self.found.teacher}", self.result.reference.figures()),
            _row(f"student {self.found.student}, labels alone", alone),
            _row(f"student {self.found.student}, distilled", final.figures()),
        )
        gain = numbers.points(alone["top1"], final.top1)
        heads = ("", "top-1", "top-5", "FLOPs", "parameters", "latency")
        return [Table("What the teacher is worth", heads, rows, f"distilled: {gain}", brief=True)]


def _row(name: str, figures: Mapping[str, float | None]) -> tuple[str, ...]:
    return (
        name,
        numbers.percent(figures["top1"]),
        numbers.percent(figures["top5"]),
        numbers.human(figures["flops"]),
        numbers.human(figures["params"]),
        numbers.milliseconds(figures["latency_ms"]),
    )


__all__ = ["KEY", "Distillation", "DistillationDetails", "Measurement"]

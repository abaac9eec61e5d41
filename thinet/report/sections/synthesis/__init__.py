"""What learning without data leaves: whose images a student learned from, and what they were."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from thinet.report import numbers
from thinet.report.courses import last_epochs
from thinet.report.sections.base import Picture, Plot, Section, StepFigure
from thinet.report.sections.synthesis.details import (
    KEY,
    TOP1,
    Control,
    EpochRow,
    SynthesisDetails,
)
from thinet.report.sections.synthesis.figures import (
    STRIPS,
    accuracy_figure,
    balance_figure,
    classes_figure,
    losses_figure,
)
from thinet.report.sections.synthesis.grid import save_grid
from thinet.report.sections.synthesis.words import TERMS, least, taught_by
from thinet.report.table import Table, subject
from thinet.run.result import Measurement

__all__ = ["KEY", "Control", "EpochRow", "Synthesis", "SynthesisDetails", "save_grid"]

GENERATED = "generated"
"""Below the run's folder of figures, the pictures that were drawn while it trained."""
EARLIER = 3
"""Epochs that are shown beside the last."""


@dataclass(frozen=True)
class Synthesis(Section[SynthesisDetails]):
    """The section of learning without data: teacher, student on drawn images, controls, images."""

    key: ClassVar[str] = KEY
    kind: ClassVar[type[object]] = SynthesisDetails
    step_figures: ClassVar[Mapping[str, StepFigure]] = {
        "top1_noise": StepFigure("top-1 on noise", "taught on noise")
    }
    accuracies: ClassVar[Mapping[str, str]] = {"top1_noise": "taught on noise"}

    def lines(self) -> Sequence[str]:
        """Alarms; what the images are worth, what they were drawn for, and how steady it was."""
        found, final = self.found, self.result.final
        gains = [
            f"drawn images against {one.name}: "
            f"{numbers.points(one.measurement.top1, final.top1)} of top-1"
            for one in found.controls
            if one.measurement.top1 is not None and final.top1 is not None
        ]
        alarms = [f"alarm: {sentence}" for sentence in found.alarms]
        return [*alarms, *gains, *taught_by(found), *_steadiness(found), *_drawn(found)]

    def figures(self) -> Mapping[str, float | None]:
        """Accuracies of the controls."""
        top1 = {f"top1_{one.name}": one.measurement.top1 for one in self.found.controls}
        return {name: top1.get(name) for name in self.accuracies}

    def tables(self) -> Sequence[Table]:
        """Teacher, student and controls; the terms at the beginning and at the end."""
        found, tables = self.found, list[Table]()
        if found.controls:
            tables.append(self._controls())
        if found.epochs:
            tables.append(_terms(found))
        return tables

    def _controls(self) -> Table:
        found = self.found
        rows = (
            _row(f"teacher {found.teacher}", self.result.reference),
            *(_row(f"student on {one.name}", one.measurement) for one in found.controls),
            _row("student on drawn images", self.result.final),
        )
        heads = ("", "top-1", "top-5", "FLOPs", "parameters")
        note = (
            f"All students are {found.student} and begin with the same weights; they learn from "
            "the same teacher by the same recipe and as long."
        )
        title = "What the drawn images are worth"
        return Table(title, heads, rows, note, brief=True, leading=True)

    def plots(self) -> Sequence[Plot]:
        """The student's accuracy, the losses, the classes of what is drawn."""
        found, plots = self.found, list[Plot]()
        if not found.epochs:
            return plots
        if any(map(math.isfinite, found.accuracies)):
            plots.append(self._accuracy(found.accuracies))
        about = subject(self.result)
        if any(name in row.figures for row in found.epochs for name in TERMS):
            caption = (
                "The terms that generator and student minimise, before their weights, and how "
                "often student and teacher give the same class."
            )
            plots.append(Plot("synthesis_losses", caption, partial(losses_figure, found, about)))
        if found.epochs[-1].classes:
            caption = (
                "Which classes the teacher sees in the images of the last epoch, and how much "
                "classes and images differed over the epochs."
            )
            plots.append(Plot("synthesis_balance", caption, partial(balance_figure, found, about)))
        return plots

    def logged(self, folder: Path) -> Sequence[Plot]:
        """The course of a student that was taught by a finished generator; images by class."""
        found, plots = self.found, list[Plot]()
        if not any(map(math.isfinite, found.accuracies)) and self.result.steps:
            values = last_epochs(folder, self.result.steps[-1].epochs).get(TOP1, [])
            if any(map(math.isfinite, values)):
                plots.append(self._accuracy(values))
        pictures = self._of_classes(folder / "figures" / GENERATED)
        if pictures:
            caption = "Generated images at the end, by the class that the teacher sees in them"
            drawn = sum(count > 0 for count in found.epochs[-1].classes)
            if drawn > len(pictures):
                caption += f": the {len(pictures)} most frequent of {drawn} classes"
            caption += "."
            draw = partial(classes_figure, pictures, found, subject(self.result))
            plots.append(Plot("synthesis_classes", caption, draw))
        return plots

    def _accuracy(self, values: Sequence[float]) -> Plot:
        levels = {"teacher": self.result.reference.val_top1}
        levels |= {f"on {one.name}": one.measurement.val_top1 for one in self.found.controls}
        caption = (
            "Top-1 accuracy of the student on validation images after each epoch. The student of "
            "the last epoch is kept, whatever these say."
        )
        draw = partial(accuracy_figure, list(values), levels, subject(self.result))
        return Plot("synthesis_accuracy", caption, draw)

    def _of_classes(self, folder: Path) -> dict[int, Path]:
        """Pictures of the classes that are most frequent, in the order of the classes."""
        if not self.found.epochs:
            return {}
        counts = self.found.epochs[-1].classes
        order = sorted(range(len(counts)), key=lambda number: -counts[number])
        paths = {number: folder / f"class_{number}.png" for number in order if counts[number]}
        there = [number for number, path in paths.items() if path.exists()][:STRIPS]
        return {number: paths[number] for number in sorted(there)}

    def pictures(self, figures: Path) -> Sequence[Picture]:
        """Images at the end of the training, and of a few epochs before it."""
        folder, rows = figures / GENERATED, self.found.epochs
        paths = {row.epoch: folder / f"epoch_{row.epoch:03d}.png" for row in rows}
        there = [row for row in rows if paths[row.epoch].exists()]
        return [Picture(_caption(row, rows[-1]), paths[row.epoch]) for row in _chosen(there)]


def _chosen(rows: Sequence[EpochRow]) -> list[EpochRow]:
    """The last epoch, then three before it: the first, and ever larger steps from there."""
    if not rows:
        return []
    places = {round((len(rows) - 1) ** (k / EARLIER)) - (not k) for k in range(EARLIER)}
    return [rows[-1], *(rows[place] for place in sorted(places) if place < len(rows) - 1)]


def _caption(row: EpochRow, last: EpochRow) -> str:
    kinds = sum(count > 0 for count in row.classes)
    seen = f"the teacher sees {kinds} of {len(row.classes)} classes in them"
    when = "at the end of the training" if row == last else "of the same noise"
    return f"Generated images after epoch {row.epoch}, {when}: {seen}."


def _steadiness(found: SynthesisDetails) -> list[str]:
    last, best = found.last, found.best
    if last is None or best is None:
        return []
    return [
        f"validation top-1 of the last {last.count} epochs: {numbers.percent(last.mean)} ± "
        f"{100 * last.spread:.2f} points; the student of the last is kept; best epoch on "
        f"validation images {numbers.percent(best.figures[TOP1])} (epoch {best.epoch}), a "
        "diagnostic: not chosen"
    ]


def _drawn(found: SynthesisDetails) -> list[str]:
    if not found.epochs or not sum(found.epochs[-1].classes):
        return []
    row = found.epochs[-1]
    kinds = sum(count > 0 for count in row.classes)
    return [
        f"of the last {sum(row.classes):,} images the teacher sees {min(row.classes):,} to "
        f"{max(row.classes):,} in each class, {kinds} of {len(row.classes)} classes in all "
        f"(entropy {row.balance:.2f} of 1); spread {row.spread:.2f} of 1"
    ]


def _terms(found: SynthesisDetails) -> Table:
    """What was logged in the first and the last epoch, each term with its weight and its end."""
    shown = found.epochs[:1] + found.epochs[1:][-1:]
    last = shown[-1].figures
    rows = []
    for name, term in TERMS.items():
        if name in last:
            weight = found.weights.get(term.weight) if term.weight else None
            rows.append(
                (
                    term.title,
                    f"{weight:g}" if weight is not None else "–",
                    *(_number(row.figures.get(name), term.percent) for row in shown),
                    least(name, found),
                )
            )
    heads = ("", "weight", *(f"epoch {row.epoch}" for row in shown), "at best")
    note = (
        "Means of an epoch, before the weights. The generator minimises the sum of its weighted "
        "terms, the student a loss of its own. At best, with this base and these reductions."
    )
    return Table("The terms of the losses", heads, tuple(rows), note)


def _number(value: float | None, percent: bool) -> str:
    if value is None or not math.isfinite(value):
        return numbers.MISSING
    return numbers.percent(value, 1) if percent else f"{value:.3f}"


def _row(name: str, one: Measurement) -> tuple[str, ...]:
    return (
        name,
        numbers.percent(one.top1),
        numbers.percent(one.top5),
        numbers.human(one.flops),
        numbers.human(one.params),
    )

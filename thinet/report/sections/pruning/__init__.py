"""What pruning leaves: which filters of each layer stay, and the accuracy before fine-tuning."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from thinet.report import numbers, style
from thinet.report.sections.base import Picture, Plot, Section, StepFigure, Width, Widths
from thinet.report.sections.pruning.inspection import INSPECTION, picture_of
from thinet.report.table import Table, subject, written
from thinet.run.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEY = "pruning"
LAYERS_PER_COLUMN = 56


@dataclass(frozen=True)
class LayerRow:
    """One cut of one layer.

    Attributes:
        stage: In which it was cut.
        layer: Its name.
        filters_before: Filters before the cut.
        filters_after: Filters after it.
        ratio: The fraction that was kept.
        flops_before: Of this layer alone, before the cut.
        flops_after: After it.
        params_before: Of this layer alone, before the cut.
        params_after: After it.
        kept: The filters that stay, as numbers in the full network.
        rows: Samples behind the choice; None if it looked at none.
        error: Relative squared error of the next layer's output; None if not known.
        error_corrected: The same after the reconstruction.
    """

    stage: int
    layer: str
    filters_before: int
    filters_after: int
    ratio: float
    flops_before: int
    flops_after: int
    params_before: int
    params_after: int
    kept: tuple[int, ...]
    rows: int | None = None
    error: float | None = None
    error_corrected: float | None = None


@dataclass(frozen=True)
class Accuracy:
    """Of a network on test images, as fractions; see :class:`~thinet.run.result.Measurement`."""

    top1: float | None
    top5: float | None
    top10: float | None = None
    mean_ap: float | None = None


@dataclass(frozen=True)
class BeforeFinetuning:
    """Accuracies in the last stage, before its fine-tuning.

    Attributes:
        plain: As cut; None if not measured.
        recalibrated: With BatchNorm re-estimated; None if there is none.
    """

    plain: Accuracy | None = None
    recalibrated: Accuracy | None = None


@dataclass(frozen=True)
class PruningDetails:
    """What only pruning knows.

    Attributes:
        layers: The cuts, in order; a layer that is cut in several stages has a row for each.
        before_finetuning: None if nothing was measured then.
    """

    layers: tuple[LayerRow, ...]
    before_finetuning: BeforeFinetuning | None = None


_COLUMNS = (*(one.name for one in fields(LayerRow) if one.name != "kept"), "kept")


@dataclass(frozen=True)
class Pruning(Section[PruningDetails]):
    """The section of pruning: ``layers.csv``, a table and a figure of widths, pictures of cuts."""

    key: ClassVar[str] = KEY
    kind: ClassVar[type[object]] = PruningDetails
    step_figures: ClassVar[Mapping[str, StepFigure]] = {
        "top1_plain": StepFigure("top-1 as cut", "after surgery"),
        "top1_recalibrated": StepFigure("recalibrated", "BatchNorm recalibrated"),
        "top1": StepFigure("fine-tuned", "after fine-tuning"),
        "top5_plain": StepFigure(""),
        "top5_recalibrated": StepFigure(""),
    }
    accuracies: ClassVar[Mapping[str, str]] = {
        "top1_cut": "as cut",
        "top1_recalibrated": "recalibrated",
    }

    def lines(self) -> Sequence[str]:
        """The accuracies before fine-tuning, each with how BatchNorm was treated."""
        return [
            f"before fine-tuning, {how} BatchNorm recalibration: "
            f"{written(self.result.evaluated, vars(one))}"
            for how, one in zip(("without", "with"), self._before(), strict=True)
            if one and one.top1 is not None
        ]

    def _before(self) -> tuple[Accuracy | None, Accuracy | None]:
        found = self.found.before_finetuning or BeforeFinetuning()
        return found.plain, found.recalibrated

    def figures(self) -> Mapping[str, float | None]:
        """Accuracies before fine-tuning."""
        plain, recalibrated = self._before()
        return {
            "top1_cut": plain.top1 if plain else None,
            "top1_recalibrated": recalibrated.top1 if recalibrated else None,
        }

    def tables(self) -> Sequence[Table]:
        """One row a layer."""
        heads = ("layer", "filters", "kept", "FLOPs", "parameters", "rows", "relative error",
                 "corrected")  # fmt: skip
        rows = tuple(_cells(layer) for layer in whole_cuts(self.found.layers))
        return [Table("Layers", heads, rows)] if rows else []

    def plots(self) -> Sequence[Plot]:
        """Filters before and after."""
        layers = whole_cuts(self.found.layers)
        caption = "Filters of each pruned layer, before and after."
        return [Plot("widths", caption, lambda: width_figure(self.result, layers))] * bool(layers)

    def pictures(self, figures: Path) -> Sequence[Picture]:
        """What ``inspect=true`` drew, in order of the cuts."""
        paths = {cut.layer: picture_of(cut.layer, figures) for cut in self.found.layers}
        return [
            Picture(f"{layer}: {INSPECTION}", path)
            for layer, path in paths.items()
            if path.exists()
        ]

    def files(self) -> Mapping[str, str]:
        """``layers.csv``: one row a cut; kept filters are separated by spaces."""
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        for cut in self.found.layers:
            writer.writerow({**vars(cut), "kept": " ".join(map(str, cut.kept))})
        return {"layers.csv": text.getvalue()}

    def widths(self) -> Widths | None:
        """Filters of every cut layer."""
        return Widths({cut.layer: _width(cut) for cut in whole_cuts(self.found.layers)})


def whole_cuts(layers: Sequence[LayerRow]) -> list[LayerRow]:
    """One row a layer: one that was cut in several stages keeps what it was at first."""
    merged: dict[str, LayerRow] = {}
    for cut in layers:
        first = merged.get(cut.layer, cut)
        merged[cut.layer] = replace(
            cut,
            filters_before=first.filters_before,
            flops_before=first.flops_before,
            params_before=first.params_before,
        )
    return list(merged.values())


def _width(cut: LayerRow) -> Width:
    share = cut.filters_after / cut.filters_before if cut.filters_before else 0.0
    title = f"{cut.filters_before} → {cut.filters_after} filters, {numbers.percent(share, 1)} kept"
    return Width(share, str(cut.filters_after), title, cut.filters_before)


def _cells(cut: LayerRow) -> tuple[str, ...]:
    share = cut.filters_after / cut.filters_before if cut.filters_before else None
    return (
        cut.layer,
        f"{cut.filters_before} → {cut.filters_after}",
        numbers.percent(share, 1),
        f"{numbers.human(cut.flops_before)} → {numbers.human(cut.flops_after)}",
        f"{numbers.human(cut.params_before)} → {numbers.human(cut.params_after)}",
        "–" if cut.rows is None else str(cut.rows),
        *("–" if error is None else f"{error:.3f}" for error in (cut.error, cut.error_corrected)),
    )


def width_figure(result: Result, layers: Sequence[LayerRow]) -> Figure:
    """Filters of every pruned layer before (pale bar) and after (solid bar), one row a layer."""
    columns = max(1, math.ceil(len(layers) / LAYERS_PER_COLUMN))
    rows = max(1, math.ceil(len(layers) / columns))
    figure, axes = style.new_figure(
        8.0 if columns == 1 else min(5.6 * columns, 14.0),
        1.75 + max(rows, 3) * (0.27 if rows <= 24 else 0.185),
        "Layer widths before and after", f"{subject(result)}; number of filters", columns,
    )  # fmt: skip
    widest = max((layer.filters_before for layer in layers), default=1)
    for column, ax in enumerate(axes):
        _bars(ax, layers[column * rows : (column + 1) * rows], rows, widest)
    style.legend_above(axes[0])
    return figure


def _bars(ax: Axes, part: Sequence[LayerRow], rows: int, widest: int) -> None:
    before = [layer.filters_before for layer in part]
    after = [layer.filters_after for layer in part]
    ax.barh(range(len(part)), before, height=0.72, color=style.FAINT, label="before")
    ax.barh(range(len(part)), after, height=0.72, color=style.BLUE, label="after")
    for row, (old, new) in enumerate(zip(before, after, strict=True)):
        ax.annotate(f"{new} of {old}", (max(old, new), row), xytext=(4, 0),
                    textcoords="offset points", va="center", color=style.MUTED,
                    size=8 if rows <= 24 else 7)  # fmt: skip
    ax.set_yticks(range(len(part)), [style.short(layer.layer) for layer in part])
    ax.set_ylim(max(rows, 3) - 0.4, -0.6)
    ax.set_xlim(0, widest * 1.22)
    ax.tick_params(axis="y", length=0, labelsize=8.5 if rows <= 24 else 7.5)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x", color=style.GRID, linewidth=0.8)
    ax.set_xlabel("filters")

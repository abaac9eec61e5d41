"""Figures of one run, as pure functions from a result to a matplotlib ``Figure``.

A result is the content of ``result.json``. Accuracies are drawn in percent. Blue always stands for
the network that the run ends with.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinet.report import numbers, style
from thinet.report.inspection import inspections
from thinet.report.results import pruned_layers, subject
from thinet.report.sensitivity_figures import curves_figure, heatmap_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAYERS_PER_COLUMN = 56
LABEL_POINTS = 9  # what a turned label takes of the axis, 72 to the inch


def accuracy_figure(result: dict[str, Any]) -> Figure:
    """Top-1 of every stage: as pruned, BatchNorm recalibrated, fine-tuned, against the baseline.

    The x axis is the sequence of stages (0 is the baseline), each labelled with its name and the
    fraction of FLOPs removed so far; a last place ``final`` follows when the slim network has a
    validation accuracy of its own.
    """
    stages, slim = result["stages"], result.get("slim") or {}
    baseline, split = _baseline_top1(result)
    final = slim.get("val_top1") if split == "validation" else None
    width = _width(len(stages))
    figure, (ax,) = style.new_figure(
        width, 4.9, "Accuracy after each stage", f"{subject(result)}; top-1 on {split} images"
    )
    places = list(range(1, len(stages) + 1))
    tuned = [_scaled(stage.get("top1")) for stage in stages]
    plain = [_scaled(stage.get("top1_plain")) for stage in stages]
    recalibrated = [_scaled(stage.get("top1_recalibrated")) for stage in stages]
    if baseline is not None:
        ax.axhline(100 * baseline, color=style.MUTED, linewidth=1.2, linestyle=(0, (5, 3)),
                   label=f"baseline {numbers.percent(baseline)}", zorder=1)  # fmt: skip
    size = 6.5 if len(stages) <= 20 else 4.5
    look: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.6, "markersize": size}
    ax.plot(places, plain, color=style.VERMILLION, marker="v", linewidth=1.0,
            label="after surgery", **look)  # fmt: skip
    if any(math.isfinite(value) for value in recalibrated):
        ax.plot(places, recalibrated, color=style.SKY, marker="s", linewidth=1.0,
                label="BatchNorm recalibrated", **look)  # fmt: skip
    start, end = [_scaled(baseline)], [_scaled(final)] if final is not None else []
    line = [*start, *tuned, *end]
    ax.plot(range(len(line)), line, color=style.BLUE, marker="o", linewidth=2.0,
            label="after fine-tuning", **look)  # fmt: skip
    _accuracy_limits(ax, [*line, *plain, *recalibrated])
    _stage_axis(ax, result, width, final=bool(end))
    last = max((i for i, value in enumerate(line) if math.isfinite(value)), default=None)
    if last:
        text = numbers.percent(line[last] / 100)
        style.label_ends(ax, [style.EndLabel(last, line[last], text, style.BLUE)])
    _legend(ax)
    return figure


def cost_figure(result: dict[str, Any]) -> Figure:
    """FLOPs and parameters that remain after every stage, in percent of the baseline's.

    The absolute numbers stand beside the end of each line. Place 0 is the baseline.
    """
    stages, before = result["stages"], result["baseline"]
    width = _width(len(stages))
    figure, (ax,) = style.new_figure(
        width, 4.7, "FLOPs and parameters after each stage", f"{subject(result)}; share of baseline"
    )
    ends = []
    for label, key, color, marker in (
        ("FLOPs", "flops", style.BLUE, "o"),
        ("parameters", "params", style.ORANGE, "s"),
    ):
        share = [100 * stage[key] / before[key] for stage in stages]
        line = [100.0, *share]
        ax.plot(range(len(line)), line, color=color, marker=marker, linewidth=2.0,
                markersize=6 if len(stages) <= 20 else 4, markeredgecolor="white",
                markeredgewidth=0.6, label=label)  # fmt: skip
        text = (
            f"{label} {line[-1]:.1f} %\n{numbers.human(stages[-1][key] if stages else before[key])}"
            f" of {numbers.human(before[key])}"
        )
        ends.append(style.EndLabel(len(line) - 1, line[-1], text, color))
    ax.set_ylim(0, max(104, *(end.y * 1.04 for end in ends)))
    style.percent_axis(ax)
    ax.set_ylabel("remaining share of the baseline")
    _stage_axis(ax, result, width, final=False)
    style.label_ends(ax, ends)
    _legend(ax)
    return figure


def width_figure(result: dict[str, Any]) -> Figure:
    """Filters of every pruned layer before (pale bar) and after (solid bar), one row a layer."""
    layers = pruned_layers(result)
    columns = max(1, math.ceil(len(layers) / LAYERS_PER_COLUMN))
    rows = max(1, math.ceil(len(layers) / columns))
    figure, axes = style.new_figure(
        8.0 if columns == 1 else min(5.6 * columns, 14.0),
        1.75 + max(rows, 3) * (0.27 if rows <= 24 else 0.185),
        "Layer widths before and after", f"{subject(result)}; number of filters", columns,
    )  # fmt: skip
    widest = max((layer["filters_before"] for layer in layers), default=1)
    for column, ax in enumerate(axes):
        part = layers[column * rows : (column + 1) * rows]
        before = [layer["filters_before"] for layer in part]
        after = [layer["filters_after"] for layer in part]
        ax.barh(range(len(part)), before, height=0.72, color=style.FAINT, label="before")
        ax.barh(range(len(part)), after, height=0.72, color=style.BLUE, label="after")
        for row, (old, new) in enumerate(zip(before, after, strict=True)):
            ax.annotate(f"{new} of {old}", (max(old, new), row), xytext=(4, 0),
                        textcoords="offset points", va="center", color=style.MUTED,
                        size=8 if rows <= 24 else 7)  # fmt: skip
        ax.set_yticks(range(len(part)), [_short(layer["layer"]) for layer in part])
        ax.set_ylim(max(rows, 3) - 0.4, -0.6)
        ax.set_xlim(0, widest * 1.22)
        ax.tick_params(axis="y", length=0, labelsize=8.5 if rows <= 24 else 7.5)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x", color=style.GRID, linewidth=0.8)
        ax.set_xlabel("filters")
    _legend(axes[0])
    return figure


def draw_figures(result: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write the figures a result has data for as PNG files into ``folder``, each atomically.

    Returns:
        The paths of ``accuracy.png``, ``cost.png`` and ``widths.png``, or of
        ``sensitivity_curves.png`` and ``sensitivity_heatmap.png``, without those that would be
        empty: a run that only trains has none. Pictures of ``inspect=true`` that are in the folder
        follow.

    Raises:
        ThinetError: If the folder cannot be written.
    """
    drawn = [
        style.save_png(figure, Path(folder) / f"{name}.png") for name, figure in run_figures(result)
    ]
    return drawn + [path for _, path in inspections(result, folder)]


def run_figures(result: dict[str, Any]) -> list[tuple[str, Figure]]:
    """Make the figures a result has data for, each with its short name."""
    figures = []
    if result.get("stages"):
        figures.append(("accuracy", accuracy_figure(result)))
        figures.append(("cost", cost_figure(result)))
    if result.get("layers"):
        figures.append(("widths", width_figure(result)))
    if result.get("sensitivity"):
        figures.append(("sensitivity_curves", curves_figure(result)))
        figures.append(("sensitivity_heatmap", heatmap_figure(result)))
    return figures


def _baseline_top1(result: dict[str, Any]) -> tuple[float | None, str]:
    """Find the accuracy to compare stages with: they are measured on validation images."""
    baseline = result["baseline"]
    if baseline.get("val_top1") is not None or baseline.get("top1") is None:
        return baseline.get("val_top1"), "validation"
    return baseline["top1"], "validation (baseline: test)"


def _scaled(fraction: float | None) -> float:
    """Percent, with not-a-number for what was not measured, which lines leave out."""
    return math.nan if fraction is None else 100 * fraction


def _width(stages: int) -> float:
    return min(max(8.4, 2.4 + 0.185 * stages), 12.5)


def _short(name: str, limit: int = 34) -> str:
    """Cut the middle out of a very long name: both ends tell layers apart."""
    half = (limit - 1) // 2
    return name if len(name) <= limit else f"{name[:half]}…{name[-half:]}"


def _accuracy_limits(ax: Axes, values: list[float]) -> None:
    known = [value for value in values if math.isfinite(value)] or [0.0, 100.0]
    span = max(max(known) - min(known), 2.0)
    ax.set_ylim(max(min(known) - 0.08 * span, -1.5), min(max(known) + 0.08 * span, 101.5))
    style.percent_axis(ax)
    ax.set_ylabel("top-1 accuracy")


def _stage_axis(ax: Axes, result: dict[str, Any], width: float, final: bool) -> None:
    """Label the places of the stages: upright text while it fits, else turned by 90 degrees."""
    stages = result["stages"]
    names = ["baseline", *(_short(stage["name"]) for stage in stages), *["final"] * final]
    removed = ["0 %", *(numbers.percent(stage["compression_rate"], 0) for stage in stages)]
    removed += [""] * final
    room = (width - 2.2) / max(len(names), 2) * 72 / (7.5 * 0.6)  # characters a place holds
    upright = max(map(len, names)) <= room
    between = "\n" if upright else "  "
    labels = [f"{name}{between}{rate}".rstrip() for name, rate in zip(names, removed, strict=True)]
    size = 8 if not upright and len(names) <= 30 else 7.5
    places = _labelled(len(names), width)
    ax.set_xticks(
        places, [labels[place] for place in places], size=size, rotation=0 if upright else 90
    )
    ax.set_xlabel("stage, and FLOPs removed so far")
    ax.set_xlim(-0.4, len(names) - 0.6)


def _labelled(places: int, width: float) -> list[int]:
    """Places whose turned labels do not touch: all, or every second, third ... and the last."""
    every = math.ceil(places * LABEL_POINTS / ((width - 2.2) * 72))
    return [*range(0, places - every, every), places - 1] if places else []


def _legend(ax: Axes) -> None:
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=9,
        borderaxespad=0.3, handlelength=1.8, columnspacing=1.6, labelcolor=style.INK,
    )  # fmt: skip

"""The figure of the study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thinet.report.style import (
    BLUE,
    GRID,
    INK,
    MUTED,
    VERMILLION,
    new_figure,
    percent_axis,
    save_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Mapping[str, list[dict[str, str]]]
"""By label, a row a seed."""
BASELINE = 83.2
"""Test accuracy of the unpruned ResNet-56 on the JPEG copy."""


def draw(parts: Mapping[str, Rows], path: Path) -> None:
    """Ingredients step by step, criteria with and without them, and what more images buy."""
    panels: list[Callable[[Axes], None]] = [lambda ax: _steps(ax, parts["steps"])]
    if len(parts["criteria_scale"]) > 1:
        panels.append(lambda ax: _criteria(ax, parts["criteria_scale"], parts["criteria_full"]))
    if len(parts["images"]) > 1:
        panels.append(lambda ax: _images(ax, parts["images_scale"], parts["images"]))
    figure, axes = new_figure(
        max(8.2, 5 * len(panels)), 5.2,
        "Half of the FLOPs in one shot, without fine-tuning: what each ingredient adds",
        "ResNet-56 on the JPEG copy of CIFAR-10, inner channels, 512 calibration images; "
        "test accuracy, BatchNorm recalibrated", len(panels),
    )  # fmt: skip
    for panel, ax in zip(panels, axes, strict=True):
        panel(ax)
    save_png(figure, path)


def _values(rows: list[dict[str, str]], name: str = "test") -> list[float]:
    return [float(row[name]) for row in rows]


def _steps(ax: Axes, steps: Rows) -> None:
    labels = list(steps)
    for place, label in enumerate(labels):
        values, plain = _values(steps[label]), np.mean(_values(steps[label], "test_plain"))
        mean = float(np.mean(values))
        ax.plot([plain, mean], [place, place], color=GRID, linewidth=3, zorder=1)
        ax.plot(plain, place, "o", color="white", markeredgecolor=MUTED, markersize=6)
        ax.errorbar(
            mean, place, xerr=np.std(values, ddof=1) if len(values) > 1 else None, fmt="o",
            color=BLUE, markersize=7, capsize=3,
        )  # fmt: skip
        ax.annotate(
            f"{mean:.1f}", (mean, place), xytext=(4, 7), textcoords="offset points", size=8,
            color=INK, ha="right",
        )  # fmt: skip
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.9)
    ax.set_xlim(20, 90)
    _mark_baseline(ax)
    ax.set_xlabel("filled: recalibrated; hollow: as cut")
    percent_axis(ax, "x")


def _mark_baseline(ax: Axes) -> None:
    ax.axvline(BASELINE, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)


def _criteria(ax: Axes, scale: Rows, full: Rows) -> None:
    names = [name for name in scale if name in full] or list(scale)
    names.sort(key=lambda name: -np.mean(_values((full if name in full else scale)[name])))
    for place, name in enumerate(names):
        for rows, color, marker in ((scale, VERMILLION, "s"), (full, BLUE, "o")):
            if name in rows:
                ax.plot(np.mean(_values(rows[name])), place, marker, color=color, markersize=6.5)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.9)
    _mark_baseline(ax)
    ax.set_xlabel("selection with scale (squares), with the full recipe (dots)")
    percent_axis(ax, "x")


def _images(ax: Axes, scale: Rows, full: Rows) -> None:
    for rows, color, marker, text in (
        (full, BLUE, "o", "full recipe"), (scale, VERMILLION, "s", "ThiNet + scale"),
    ):  # fmt: skip
        if not rows:
            continue
        counts = [int(label) for label in rows]
        values = [float(np.mean(_values(rows[label]))) for label in rows]
        ax.plot(counts, values, color=color, marker=marker, markersize=6)
        ax.annotate(
            text, (counts[-1], values[-1]), xytext=(0, -14), textcoords="offset points", size=9,
            color=color, ha="right",
        )  # fmt: skip
        ax.set_xscale("log", base=2)
        ax.set_xticks(counts, [str(count) for count in counts])
    ax.minorticks_off()
    ax.set_xlabel("calibration images")
    percent_axis(ax)

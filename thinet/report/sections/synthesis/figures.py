"""Figures of learning without data: its losses, its accuracy, the classes of what is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thinet.report import numbers, style
from thinet.report.sections.synthesis.details import EpochRow, SynthesisDetails, last_tenth
from thinet.report.sections.synthesis.words import TERMS, Term, least_entropy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DENSE = 40
"""Epochs from which on they have no markers of their own."""
NAMED, LONGEST = 20, 12
"""Classes that have their names below the bars, and the letters of a name at most."""
STRIPS = 20
"""Classes of which images are shown."""


def losses_figure(found: SynthesisDetails, subject: str) -> Figure:
    """A panel for each figure of training that was logged, over the epochs.

    Each has an axis of its own: the terms differ by orders of magnitude and in sign.
    """
    panels = [name for name in TERMS if any(name in row.figures for row in found.epochs)]
    columns = min(len(panels), 4 if len(panels) > 6 else 3)
    rows = math.ceil(len(panels) / columns)
    figure, axes = style.new_figure(
        9.6, 0.62 + 2.35 * rows, "What is minimised", f"{subject}; means of an epoch", columns, rows
    )
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for ax, name in zip(axes, panels, strict=False):
        values = [row.figures.get(name, math.nan) for row in found.epochs]
        weight = found.weights.get(TERMS[name].weight)
        _term(ax, TERMS[name], values, weight)
        if name == "train/entropy" and found.classes:
            _level(ax, least_entropy(found), "all classes equally frequent", below=True)
    return figure


def _term(ax: Axes, term: Term, values: Sequence[float], weight: float | None) -> None:
    heights = [100 * value for value in values] if term.percent else list(values)
    _course(ax, heights, term.color)
    if term.percent:
        style.percent_axis(ax)
        known = [height for height in heights if math.isfinite(height)]
        low = min(known, default=0.0)
        ax.set_ylim(max(0.0, low - 0.1 * max(100 - low, 1.0)), 100 + 0.03 * max(100 - low, 1.0))
    else:
        ax.grid(axis="y", color=style.GRID, linewidth=0.8)
        ax.margins(y=0.12)
    title = term.title if weight is None else f"{weight:g} × {term.title}"
    ax.set_title(title, size=9, color=style.INK, loc="left")


def accuracy_figure(
    values: Sequence[float], levels: Mapping[str, float | None], subject: str
) -> Figure:
    """The student's accuracy on validation images, with the last tenth of the epochs set apart.

    Args:
        values: Of each epoch, not a number where it is not known.
        levels: What it is compared with, by name: the teacher, students taught on other images.
        subject: Of the figure.
    """
    about = f"{subject}; top-1 on validation images, which choose nothing"
    figure, (ax,) = style.new_figure(9.6, 3.9, "The student's accuracy", about)
    heights = [100 * value for value in values]
    _course(ax, heights, style.BLUE)
    ends = [
        style.EndLabel(len(values) + 0.5, 100 * value, f"{name} {numbers.percent(value)}", color)
        for (name, value), color in zip(levels.items(), _level_colors(len(levels)), strict=True)
        if value is not None and math.isfinite(value)
    ]
    for end in ends:
        ax.axhline(end.y, color=end.color, linewidth=1.3, linestyle=(0, (5, 3)), zorder=1)
    if (last := last_tenth(values)) is not None:
        first = len(values) - last.count + 0.5
        ax.axvspan(first, len(values) + 0.5, color=style.GRID, zorder=0)
        low, high = 100 * (last.mean - last.spread), 100 * (last.mean + last.spread)
        ax.fill_between([first, len(values) + 0.5], low, high, color=style.BLUE, alpha=0.25,
                        linewidth=0, zorder=1)  # fmt: skip
        text = (f"last {last.count} epochs\n{numbers.percent(last.mean)} ± "
                f"{100 * last.spread:.2f} points")  # fmt: skip
        ends.append(style.EndLabel(len(values) + 0.5, 100 * last.mean, text, style.BLUE))
    style.percent_axis(ax)
    shown = [one for one in (*heights, *(end.y for end in ends)) if math.isfinite(one)]
    room = 0.08 * max(max(shown) - min(shown), 1.0)
    ax.set_ylim(max(min(shown) - room, 0.0), min(max(shown) + room, 101.0))
    style.label_ends(ax, ends)
    return figure


def _level_colors(count: int) -> list[str]:
    """The first is the teacher's."""
    others = [style.VERMILLION, style.ORANGE, style.PURPLE, style.GREEN]
    return [style.MUTED, *(others[k % len(others)] for k in range(count - 1))][:count]


def balance_figure(found: SynthesisDetails, subject: str) -> Figure:
    """Which classes the teacher sees in the last images, and how these changed over the epochs.

    Args:
        found: The details, with at least one epoch.
        subject: Of the figure.
    """
    row = found.epochs[-1]
    about = f"{subject}; {sum(row.classes):,} images drawn after each epoch"
    figure, (bars, course) = style.new_figure(
        9.6, 3.7, "The classes of the generated images", about, columns=2
    )
    _histogram(bars, row, found.classes)
    _course(course, [one.balance for one in found.epochs], style.PURPLE)
    _course(course, [one.spread for one in found.epochs], style.GREEN)
    course.grid(axis="y", color=style.GRID, linewidth=0.8)
    course.set_ylim(0, 1.06 * max(1.0, *(one.spread for one in found.epochs)))
    title = "1: as different as can be, 0: all the same"
    course.set_title(title, size=9.5, color=style.INK, loc="left")
    at = len(found.epochs) + 0.5
    style.label_ends(
        course,
        [
            style.EndLabel(at, row.balance, f"entropy of\nclasses {row.balance:.2f}", style.PURPLE),
            style.EndLabel(at, row.spread, f"spread of\nimages {row.spread:.2f}", style.GREEN),
        ],
    )
    return figure


def _histogram(ax: Axes, row: EpochRow, names: Sequence[str]) -> None:
    count = len(row.classes)
    total = sum(row.classes) or 1
    shares = [100 * one / total for one in row.classes]
    few = count <= NAMED
    ax.bar(range(count), shares, color=style.BLUE, width=0.8 if few else 1.0)
    ax.axhline(100 / count, color=style.VERMILLION, linewidth=1.3, linestyle=(0, (5, 3)))
    style.percent_axis(ax)
    ax.set_ylim(0, 1.12 * max(*shares, 100 / count))
    ax.set_xlim(-0.6, count - 0.4)
    if few and len(names) == count:
        texts = [style.short(name, LONGEST) for name in names]
        tilted = max(map(len, texts)) > 2
        ax.set_xticks(range(count), texts, rotation=40 if tilted else 0,
                      ha="right" if tilted else "center", rotation_mode="anchor")  # fmt: skip
    ax.set_xlabel(
        "class that the teacher sees" if few else "class that the teacher sees, by number"
    )
    title = f"after epoch {row.epoch}; dashed: equally frequent, {100 / count:.3g} %"
    ax.set_title(title, size=9.5, color=style.INK, loc="left")


def classes_figure(pictures: Mapping[int, Path], found: SynthesisDetails, subject: str) -> Figure:
    """Generated images, class by class as the teacher sees them.

    Args:
        pictures: By the number of the class, the file of its images.
        found: The details, with at least one epoch.
        subject: Of the figure.
    """
    from matplotlib.image import imread

    row = found.epochs[-1]
    images = {number: imread(path) for number, path in pictures.items()}
    rows = math.ceil(len(images) / 2)
    width = max(image.shape[1] for image in images.values())
    inches = 4.5 * max(image.shape[0] for image in images.values()) / width + 0.34
    about = f"{subject}; as the teacher sees them, of {sum(row.classes):,} images"
    figure, axes = style.new_figure(
        9.6, 0.62 + inches * rows, f"Generated images after epoch {row.epoch}", about, 2, rows
    )
    for ax in axes:
        ax.set_axis_off()
    for ax, (number, image) in zip(axes, images.items(), strict=False):
        ax.imshow(image, interpolation="nearest", aspect="equal")
        ax.set_xlim(0, width)  # one scale for all
        ax.set_anchor("NW")
        name = found.classes[number] if number < len(found.classes) else str(number)
        count = row.classes[number] if number < len(row.classes) else 0
        title = f"{style.short(name)}: {count:,} image{'s' * (count != 1)}"
        ax.set_title(title, size=9, color=style.INK, loc="left")
    return figure


def _course(ax: Axes, heights: Sequence[float], color: str) -> None:
    from matplotlib.ticker import MaxNLocator

    count = len(heights)
    ax.plot(range(1, count + 1), heights, color=color, linewidth=1.8,
            marker="o" if count <= DENSE else None, markersize=4.5, markeredgecolor="white",
            markeredgewidth=0.6)  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    ax.set_xlim(0.4, count + 0.6)
    ax.set_xlabel("epoch")


def _level(ax: Axes, height: float, text: str, below: bool = False) -> None:
    ax.axhline(height, color=style.MUTED, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
    ax.annotate(text, (0.99, height), xycoords=ax.get_yaxis_transform(),
                xytext=(0, -3 if below else 3), textcoords="offset points", ha="right",
                va="top" if below else "bottom", size=8, color=style.MUTED)  # fmt: skip
    low, high = ax.get_ylim()
    room = 0.2 * max(high - low, abs(height) * 0.02, 1e-3)
    ax.set_ylim(min(low, height - room), max(high, height + room))

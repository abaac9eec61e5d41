"""Figures of distillation: the terms of its loss over the epochs, and who pulls how hard."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from thinet.report import style
from thinet.run.result import StepRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Courses = Mapping[str, Sequence[float]]
"""By name, a value an epoch."""

CROSS_ENTROPY, SOFT_TARGETS, CORRELATION = "cross_entropy", "soft_targets", "correlation"
AGREEMENT, SHARE = "agreement", "gradient_share_"
"""As :mod:`thinet.engine.distilled` logs them."""
TERMS = {
    CROSS_ENTROPY: ("cross-entropy of the labels", style.SKY),
    SOFT_TARGETS: ("soft targets", style.VERMILLION),
    CORRELATION: ("correlation congruence", style.GREEN),
}
"""Of each term what it is called, and its colour in all figures."""
MARKED = 30
"""Stages whose beginnings are marked: more of them would hide what is drawn."""
DENSE = 40
"""Epochs from which on they have no markers of their own."""


def terms_figure(found: Courses, weights: Mapping[str, float], bounds: Sequence[int],
                 subject: str) -> Figure:  # fmt: skip
    """A panel for each term that was logged, and one for the agreement with the teacher.

    Each has an axis of its own: the terms differ by orders of magnitude.

    Args:
        found: What was logged.
        weights: Of the terms in the loss; one without was only watched.
        bounds: Epochs before which a new stage begins.
        subject: Of the figure.
    """
    panels = [name for name in (*TERMS, AGREEMENT) if name in found]
    columns = 2 if len(panels) in (2, 4) else min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    about = f"{subject}; means of an epoch" + _stages(bounds)
    figure, axes = style.new_figure(
        9.6, 0.62 + 2.55 * rows, "What the student learns", about, columns, rows
    )
    for ax, name in zip(axes, panels, strict=True):
        _panel(ax, name, found[name], weights, bounds)
    return figure


def _stages(bounds: Sequence[int]) -> str:
    if not bounds:
        return ""
    how = "" if len(bounds) > MARKED else " (vertical lines)"
    return f"; {1 + len(bounds)} stages in a row{how}"


def _panel(
    ax: Axes, name: str, values: Sequence[float], weights: Mapping[str, float],
    bounds: Sequence[int],
) -> None:  # fmt: skip
    percent = name == AGREEMENT
    title, color = TERMS.get(name, ("same class as the teacher", style.BLUE))
    if not percent:
        title += f", weight {weights[name]:g}" if weights.get(name) else ", only watched"
    heights = [100 * value for value in values] if percent else list(values)
    _mark_stages(ax, bounds)
    ax.plot(range(1, len(heights) + 1), heights, color=color, linewidth=1.8, label=name,
            marker="o" if len(heights) <= DENSE else None, markersize=4.5,
            markeredgecolor="white", markeredgewidth=0.6)  # fmt: skip
    _epochs(ax, len(heights))
    known = [height for height in heights if math.isfinite(height)]
    if percent:
        style.percent_axis(ax)
        low = min(known, default=0.0)
        room = max(100 - low, 1.0)
        ax.set_ylim(max(0.0, low - 0.1 * room), 100 + 0.03 * room)
    else:
        ax.grid(axis="y", color=style.GRID, linewidth=0.8)
        ax.set_ylim(0, 1.08 * max(known, default=1.0) or 1.0)
    ax.set_title(title, size=9.5, color=style.INK, loc="left")


def shares_figure(found: Courses, bounds: Sequence[int], subject: str) -> Figure:
    """The share of each term in the norms of the gradients, stacked to 100 %, epoch by epoch.

    Args:
        found: What was logged; a term without a share is not drawn.
        bounds: Epochs before which a new stage begins.
        subject: Of the figure.
    """
    names = [name for name in TERMS if f"{SHARE}{name}" in found]
    about = f"{subject}; norms at the input of the classifier" + _stages(bounds)
    figure, (ax,) = style.new_figure(9.6, 3.9, "How hard each term pulls", about)
    epochs = len(found[f"{SHARE}{names[0]}"])
    below = [0.0] * epochs
    ends = []
    for name in names:
        title, color = TERMS[name]
        heights = [100 * (value if math.isfinite(value) else 0.0)
                   for value in found[f"{SHARE}{name}"]]  # fmt: skip
        # Dense bars have no edges: between hundreds of them there would be nothing but white.
        ax.bar(range(1, epochs + 1), heights, bottom=below, color=color, label=title,
               width=0.82 if epochs <= DENSE else 1.0,
               edgecolor="white", linewidth=0.8 if epochs <= DENSE else 0.0)  # fmt: skip
        middle = below[-1] + heights[-1] / 2
        ends.append(style.EndLabel(epochs + 0.4, middle, f"{title} {heights[-1]:.0f} %", color))
        below = [a + b for a, b in zip(below, heights, strict=True)]
    _mark_stages(ax, bounds, above=True)
    ax.set_ylim(0, 100)
    style.percent_axis(ax)
    ax.set_ylabel("share of the gradient norms")
    _epochs(ax, epochs)
    style.label_ends(ax, ends)
    return figure


def _mark_stages(ax: Axes, bounds: Sequence[int], above: bool = False) -> None:
    for bound in bounds if len(bounds) <= MARKED else ():
        ax.axvline(bound + 0.5, color=style.INK if above else style.FAINT, linewidth=0.9,
                   zorder=3 if above else 1)  # fmt: skip


def _epochs(ax: Axes, count: int) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    ax.set_xlim(0.4, count + 0.6)
    ax.set_xlabel("epoch")


def stage_bounds(steps: Sequence[StepRecord], epochs: int) -> list[int]:
    """After how many epochs each stage but the first begins; none if the epochs are not theirs."""
    trained = [step.epochs for step in steps if step.epochs]
    ends = list(accumulate(trained))
    return ends[:-1] if ends and ends[-1] == epochs else []

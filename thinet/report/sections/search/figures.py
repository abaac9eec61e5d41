"""Figures of a search of widths: all candidates, its course, and the widths that it found."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from thinet.report import style
from thinet.report.sections.search.details import Candidate, SearchDetails, WidthRow
from thinet.report.sections.search.words import best_of, counted, named, standard_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

LEAST_COSTS = 10.0
"""Percent of the full network's cost that an axis shows at least: equal costs look equal."""
LEAST_ERRORS = 6.0
"""Standard errors that an axis of accuracies shows at least: what is chance looks like it."""
FEW = 10
"""Generations that have a colour each in the bar."""
ROWS = 40
"""Groups of layers that stand below each other."""
FOUND_COLOR, EVEN_COLOR = style.BLUE, style.VERMILLION


def search_figure(found: SearchDetails, subject: str) -> Figure:
    """All candidates, accuracy against cost, and what each generation brought.

    Args:
        found: The details, with at least one candidate.
        subject: Of the figure.
    """
    about = f"{subject}; accuracy as the proxy sees it, ± 1 standard error"
    several = len({one.generation for one in found.candidates}) > 1
    figure, axes = style.new_figure(
        10.6 if several else 8.4, 5.0, "The search for widths", about, 2 if several else 1
    )
    limits = _limits(found)
    _cloud(axes[0], found, limits)
    if several:
        grid = axes[0].get_gridspec()
        assert grid is not None
        grid.set_width_ratios([1.25, 1])
        _course(axes[1], found, limits)
        _name_course(axes[1], found)
    _name_cloud(axes[0], found)
    return figure


def _limits(found: SearchDetails) -> tuple[float, float]:
    """Of the axes of accuracies, in percent."""
    judged = [*found.candidates, *([found.uniform] if found.uniform else [])]
    known, chance = [_height(one) for one in judged], 100 * standard_error(found)
    low, high = min(known) - 1.2 * chance, max(known) + 1.2 * chance
    span = max(1.06 * (high - low), LEAST_ERRORS * chance, 0.5)
    bottom = min((low + high - span) / 2, 100 + 0.02 * span - span)
    bottom = max(bottom, -0.02 * span)
    return bottom, bottom + span


def _height(one: Candidate) -> float:
    return 100 * (1 - one.error)


def _in_order(found: SearchDetails) -> list[Candidate]:
    """The front, from the least cost to the most."""
    return sorted((found.candidates[place] for place in found.front), key=lambda one: one.cost)


def _cloud(ax: Axes, found: SearchDetails, limits: tuple[float, float]) -> None:
    costs = [100 * one.cost for one in found.candidates]
    ax.axvspan(100 * found.low, 100 * found.high, color=style.SKY, alpha=0.13, linewidth=0,
               zorder=0)  # fmt: skip
    _scatter(ax, found, costs)
    if found.front:
        front = _in_order(found)
        ax.plot([100 * one.cost for one in front], [_height(one) for one in front],
                color=style.INK, linewidth=1.3, zorder=3)  # fmt: skip
    for one, color, marker in _marked(found):
        ax.errorbar(
            100 * one.cost, _height(one), 100 * standard_error(found), color=color,
            elinewidth=1.4, capsize=3.5, marker=marker, markersize=13 if marker == "*" else 9,
            markeredgecolor="white", markeredgewidth=0.9, zorder=5,
        )  # fmt: skip
    _widen(ax, found, costs)
    ax.set_ylim(*limits)
    style.percent_axis(ax)
    style.percent_axis(ax, "x")
    ax.grid(axis="y", color=style.GRID, linewidth=0.8)
    ax.set_ylabel("accuracy as the proxy sees it")
    ax.set_xlabel(f"{counted(found)} left, of the full network's (shaded: the budget)")


def _scatter(ax: Axes, found: SearchDetails, costs: Sequence[float]) -> None:
    """All candidates; later ones lie above and are darker, with a bar that says which is which."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, Normalize
    from matplotlib.ticker import MaxNLocator

    numbered = [1 + one.generation for one in found.candidates]
    last, shades = max(numbered), _shades()
    few = last <= FEW
    norm = BoundaryNorm([k + 0.5 for k in range(last + 1)], 256) if few else Normalize(1, last)
    color = {"color": shades(0.55)} if last == 1 else {"c": numbered, "cmap": shades, "norm": norm}
    ax.scatter(costs, [_height(one) for one in found.candidates], s=_size(len(costs)),
               edgecolors="white", linewidths=0.4, zorder=2, **color)  # fmt: skip
    if last == 1:
        return
    figure = ax.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(
        ScalarMappable(norm, shades), ax=ax, location="top", aspect=45, pad=0.02,
        ticks=range(1, last + 1) if few else MaxNLocator(integer=True, nbins=8),
    )  # fmt: skip
    bar.set_label("generation", size=9, color=style.MUTED)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(which="both", labelsize=8, colors=style.MUTED, length=0)


def _shades() -> Colormap:
    """From pale to dark, without the yellow that white swallows."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    whole = colormaps["viridis_r"]
    return ListedColormap([whole(0.08 + 0.92 * k / 255) for k in range(256)])


def _size(count: int) -> float:
    """Of a marker, in square points."""
    return 42.0 if count <= 60 else 26.0 if count <= 300 else 14.0


def _marked(found: SearchDetails) -> list[tuple[Candidate, str, str]]:
    """The candidates that are told from the others, each with colour and shape."""
    marked = []
    if found.uniform is not None:
        marked.append((found.uniform, EVEN_COLOR, "D"))
    if (best := best_of(found)) is not None:
        marked.append((best, FOUND_COLOR, "*"))
    return marked


def _widen(ax: Axes, found: SearchDetails, costs: Sequence[float]) -> None:
    """Show costs over a range in which near-equal ones are near each other."""
    known = [*costs, *(100 * one.cost for one, *_ in _marked(found))]
    if not found.front:
        known += [100 * found.low, 100 * found.high]
    low, high = min(known), max(known)
    span = max(1.12 * (high - low), LEAST_COSTS)
    ax.set_xlim((low + high - span) / 2, (low + high + span) / 2)


def _name_cloud(ax: Axes, found: SearchDetails) -> None:
    names = {FOUND_COLOR: "found", EVEN_COLOR: "uniform"}
    chance = 100 * standard_error(found)
    ends = [
        style.EndLabel(100 * one.cost, _height(one),
                       f"{names[color]}\n{_height(one):.1f} ± {chance:.1f} %", color)
        for one, color, _ in _marked(found)
    ]  # fmt: skip
    if found.front:
        last = _in_order(found)[-1]
        ends.append(style.EndLabel(100 * last.cost, _height(last), "front", style.INK))
    style.label_ends(ax, ends, 8.5)


def _course(ax: Axes, found: SearchDetails, limits: tuple[float, float]) -> None:
    from matplotlib.ticker import MaxNLocator

    generations, means, bests = _courses(found)
    chance = 100 * standard_error(found)
    if found.uniform is not None:
        ax.axhline(_height(found.uniform), color=EVEN_COLOR, linewidth=1.2,
                   linestyle=(0, (5, 3)), zorder=1)  # fmt: skip
    ax.fill_between(generations, [best - chance for best in bests],
                    [best + chance for best in bests], color=FOUND_COLOR, alpha=0.16,
                    linewidth=0, zorder=1)  # fmt: skip
    ax.plot(generations, means, color=style.MUTED, linewidth=1.6, marker="s", markersize=4.5,
            markeredgecolor="white", markeredgewidth=0.5, label="mean", zorder=2)  # fmt: skip
    ax.plot(generations, bests, color=FOUND_COLOR, linewidth=2.0, marker="o", markersize=5.5,
            markeredgecolor="white", markeredgewidth=0.6, label="best", zorder=3)  # fmt: skip
    ax.set_ylim(*limits)
    style.percent_axis(ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    room = max(0.03 * (generations[-1] - generations[0]), 0.4)
    ax.set_xlim(generations[0] - room, generations[-1] + room)
    ax.set_xlabel("generation (band: ± 1 standard error of a candidate)")


def _courses(found: SearchDetails) -> tuple[list[int], list[float], list[float]]:
    """Generations from 1, the mean of each and the best so far, accuracies in percent."""
    heights: dict[int, list[float]] = {}
    for one in found.candidates:
        heights.setdefault(1 + one.generation, []).append(_height(one))
    generations = sorted(heights)
    means = [statistics.fmean(heights[generation]) for generation in generations]
    bests = accumulate((max(heights[generation]) for generation in generations), max)
    return generations, means, list(bests)


def _name_course(ax: Axes, found: SearchDetails) -> None:
    generations, means, bests = _courses(found)
    ends = [
        style.EndLabel(generations[-1], bests[-1], "best so far", FOUND_COLOR),
        style.EndLabel(generations[-1], means[-1], "mean of each", style.MUTED),
    ]
    if found.uniform is not None:
        right = ax.get_xlim()[1]
        ends.append(style.EndLabel(right, _height(found.uniform), "uniform", EVEN_COLOR))
    style.label_ends(ax, ends, 8.5)


def widths_figure(found: SearchDetails, subject: str) -> Figure:
    """For each group of layers the fraction of channels that stays: found against uniform.

    Args:
        found: The details, with the widths of at least one group.
        subject: Of the figure.
    """
    rows = found.widths
    columns = 1 if len(rows) <= ROWS else 2
    each = math.ceil(len(rows) / columns)
    about = f"{subject}; share of the channels of each group of layers"
    figure, axes = style.new_figure(
        8.4 if columns == 1 else 10.6,
        1.75 + max(each, 3) * (0.27 if each <= 24 else 0.2),
        "Widths that were found", about, columns,
    )  # fmt: skip
    for column, ax in enumerate(axes):
        part = rows[column * each : (column + 1) * each]
        _kept(ax, part, found.uniform is not None, each)
    style.legend_above(axes[0])
    return figure


def _kept(ax: Axes, part: Sequence[WidthRow], even: bool, most: int) -> None:
    places = range(len(part))
    shares = [100 * row.found / max(row.full, 1) for row in part]
    ax.barh(places, [100] * len(part), height=0.66, color=style.GRID)
    # A label on the first bar alone: the legend names single bars before ticks.
    ax.barh(places, shares, height=0.66, color=FOUND_COLOR,
            label=["found", *["_"] * (len(part) - 1)])  # fmt: skip
    if even:
        at = [100 * row.uniform / max(row.full, 1) for row in part]
        size = 120 if most <= 24 else 64
        ax.scatter(at, places, marker="|", color="white", s=size, linewidths=5.0, zorder=3)
        ax.scatter(at, places, marker="|", color=EVEN_COLOR, s=size, linewidths=2.2,
                   label="uniform", zorder=4)  # fmt: skip
    for place, row in enumerate(part):
        ax.annotate(f"{row.found} of {row.full}", (1.0, place), xytext=(6, 0),
                    xycoords=ax.get_yaxis_transform(), textcoords="offset points", va="center",
                    size=8 if most <= 24 else 7, color=style.MUTED,
                    annotation_clip=False)  # fmt: skip
    ax.set_yticks(places, [named(row, 1) for row in part])
    ax.tick_params(axis="y", length=0, labelsize=8.5 if most <= 24 else 7.5)
    ax.set_ylim(max(most, 3) - 0.4, -0.6)
    ax.set_xlim(0, 100)
    ax.spines["left"].set_visible(False)
    style.percent_axis(ax, "x")
    ax.set_xlabel("channels kept")

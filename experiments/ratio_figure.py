"""The figure of a study of one ratio: a point a round, a bar for the median, the aim in grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from thinet.report.style import BLUE, GRID, MUTED, SKY, VERMILLION, new_figure, save_png


def draw_ratios(
    rounds: Mapping[str, Sequence[float]],
    medians: Mapping[str, float],
    aims: Mapping[str, float],
    titles: tuple[str, str, str],
    path: Path,
) -> None:
    """Draw and save it.

    Args:
        rounds: Ratios of each row, by its name.
        medians: Of each row.
        aims: The most that each row should have.
        titles: Of the figure, below it, and of the axis.
        path: The PNG.
    """
    figure, (ax,) = new_figure(7.6, 1.9 + 0.55 * len(rounds), *titles[:2])
    places = range(len(rounds))[::-1]
    ax.axvline(1, color=MUTED, linewidth=1)
    for place, (name, found) in zip(places, rounds.items(), strict=True):
        ax.barh(place, aims[name] - 1, left=1, height=0.8, color=GRID, zorder=0)
        ax.scatter(found, [place] * len(found), color=SKY, s=26, alpha=0.8)
        color = BLUE if medians[name] <= aims[name] else VERMILLION
        ax.scatter([medians[name]], [place], marker="|", s=420, color=color, linewidth=2.4)
        ax.annotate(
            f"{medians[name]:.3f}", (medians[name], place), xytext=(0, 15),
            textcoords="offset points", ha="center", size=9,
        )  # fmt: skip
    ax.set_yticks(places, list(rounds), size=9)
    ax.set_ylim(-0.6, len(rounds) - 0.25)
    ax.set_xlabel(titles[2])
    save_png(figure, path)

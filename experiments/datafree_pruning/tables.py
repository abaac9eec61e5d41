"""The table and the figure of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.cifar import beyond, mean_and_spread
from thinet.report.style import (
    BLUE,
    GREEN,
    GRID,
    VERMILLION,
    new_figure,
    percent_axis,
    save_png,
)

Row = Mapping[str, str]
NAMES = {"images": "real", "generated": "generated", "noise": "noise"}
COLOURS = {"images": BLUE, "generated": VERMILLION, "noise": GREEN}


def tables(rows: Sequence[Row]) -> str:
    """Means and spreads over seeds, and paired differences to real images in both places."""
    lines = [
        "| network | calibrated on | recovered on | seeds | whole % | as cut % | recalibrated % "
        "| to real | recovered % | to real | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for network, first, second in _arms(rows):
        mine = _of(rows, network, first, second)
        real = _of(rows, network, "images", "images")
        cells = [network, NAMES[first], NAMES[second], str(len(mine))]
        cells += [_mean(mine, name) for name in ("baseline", "as_cut", "recalibrated")]
        cells.append("" if mine == real else beyond(mine, real, "recalibrated"))
        cells += [
            _mean(mine, "recovered"),
            "" if mine == real else beyond(mine, real, "recovered"),
        ]
        cells.append(f"{np.mean([float(row['seconds']) for row in mine.values()]):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _arms(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys((r["network"], r["calibration"], r["recovery"]) for r in rows))


def _of(rows: Sequence[Row], network: str, first: str, second: str) -> dict[str, Row]:
    """Rows of an arm by seed."""
    arm = (network, first, second)
    return {r["seed"]: r for r in rows if (r["network"], r["calibration"], r["recovery"]) == arm}


def _mean(rows: Mapping[str, Row], name: str) -> str:
    return mean_and_spread([float(row[name]) for row in rows.values()])


def draw(rows: Sequence[Row], path: Path) -> None:
    """Accuracy right after the cut and after recovery: every seed and the mean.

    Args:
        rows: Of ``results.csv``.
        path: Of the PNG.
    """
    arms = _arms(rows)
    figure, axes = new_figure(
        9.4, 1.9 + 0.36 * len(arms), "What images are worth to pruning",
        "half of the filters of all inner layers; test accuracy (small: a seed, large: mean)", 2,
    )  # fmt: skip
    labels = [f"{network}: {NAMES[a]}, {NAMES[b]}" for network, a, b in arms]
    for ax, name, title in zip(
        axes, ("recalibrated", "recovered"), ("before any training", "recovered"), strict=True
    ):
        for place, (network, first, second) in enumerate(arms):
            found = [float(row[name]) for row in _of(rows, network, first, second).values()]
            colour = COLOURS[first if name == "recalibrated" else second]
            ax.plot([min(found), max(found)], [place] * 2, color=GRID, linewidth=3, zorder=1)
            ax.plot(found, [place] * len(found), "o", color=colour, markersize=3.5, alpha=0.7)
            ax.plot(np.mean(found), place, "o", color=colour, markersize=8, markerfacecolor="none")
        ax.set_title(title, loc="left", fontsize=9)
        ax.set_yticks(range(len(arms)), labels if ax is axes[0] else [""] * len(arms))
        ax.set_ylim(len(arms) - 0.4, -0.6)
        percent_axis(ax, "x")
    save_png(figure, path)

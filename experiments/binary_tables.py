"""Tables and the figure of the studies of binary networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.binary import ARMS, FULL, INT8, LONGER
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

ORDER = (FULL, LONGER, INT8, *ARMS)


def tables(rows: Sequence[Mapping[str, str]]) -> str:
    """Means and spreads over seeds, and paired differences to full precision and to order 2."""
    by_arm: dict[str, dict[str, Mapping[str, str]]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], {})[row["seed"]] = row
    lines = [
        "| arm | seeds | test % | to full precision | to order 2 | M 1-bit ops | MFLOPs | kB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in ORDER:
        found = by_arm.get(name)
        if not found:
            continue
        last = next(iter(found.values()))
        cells = [
            name,
            str(len(found)),
            mean_and_spread([float(row["test"]) for row in found.values()]),
            *(
                beyond(found, by_arm.get(other, {}), "test") if name != other else ""
                for other in (FULL, "order 2")
            ),
            f"{float(last['binary_mops']):.1f}",
            f"{float(last['mflops']):.1f}",
            f"{float(last['kbytes']):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: Sequence[Mapping[str, str]], images: str, path: Path) -> None:
    """Test accuracy of each arm: every seed and the mean.

    Args:
        rows: Of ``results.csv``.
        images: What they are called.
        path: Of the PNG.
    """
    names = [name for name in ORDER if any(row["arm"] == name for row in rows)]
    figure, (ax,) = new_figure(
        8.6, 1.6 + 0.34 * len(names), "What a bit costs",
        f"{images}, test accuracy of a small VGG (small: a seed, large: mean), size of its weights",
    )  # fmt: skip
    for place, name in enumerate(names):
        mine = [row for row in rows if row["arm"] == name]
        found = np.array([float(row["test"]) for row in mine])
        color = BLUE if name in (FULL, LONGER) else GREEN if name == INT8 else VERMILLION
        ax.plot([found.min(), found.max()], [place] * 2, color=GRID, linewidth=3, zorder=1)
        ax.plot(found, [place] * len(found), "o", color=color, markersize=3.5, alpha=0.7)
        ax.plot(found.mean(), place, "o", color=color, markersize=8, markerfacecolor="none")
        ax.annotate(
            f"{float(mine[0]['kbytes']):,.0f} kB", (1.02, place),
            xycoords=ax.get_yaxis_transform(), size=8.5, va="center",
        )  # fmt: skip
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    percent_axis(ax, "x")
    save_png(figure, path)

"""The figure of the study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.distillation_cifar10.tables import Row, by_arm, values
from thinet.report.style import (
    BLUE,
    GREEN,
    GRID,
    MUTED,
    VERMILLION,
    new_figure,
    percent_axis,
    save_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(rows: Sequence[Row], path: Path) -> None:
    """Test accuracies of both parts: every seed and the mean.

    Args:
        rows: Of ``results.csv``.
        path: Of the PNG.
    """
    small = by_arm([row for row in rows if row["part"] == "students"])
    slim = by_arm([row for row in rows if row["part"] in ("pruned", "peers")])
    first = next((row for row in rows if row["part"] == "students"), None)
    course = "" if first is None else f"{first['epochs']} epochs of {int(first['images']):,} images"
    height = 1.9 + 0.34 * max(len(small), len(slim), 3)
    figure, (left, right) = new_figure(
        11, height, "What a teacher is worth",
        f"JPEG copy of CIFAR-10, test accuracy. Left: ResNet-20 from random weights, {course}; "
        "right: ResNet-56 pruned to half the FLOPs, then fine-tuned shortly", columns=2,
    )  # fmt: skip
    _dots(left, {arm: mine for (_, arm), mine in small.items()})
    _dots(right, {_title(*key): mine for key, mine in slim.items()})
    for row in rows:
        if row["part"] == "teacher":
            right.axvline(float(row["test"]), color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    left.set_xlabel("small: one seed; large: mean")
    right.set_xlabel("dashed: the unpruned network, which teaches")
    save_png(figure, path)


def _title(network: str, arm: str) -> str:
    return f"{network.replace('tp ', 'Torch-Pruning ')}: {arm}"


def _dots(ax: Axes, groups: dict[str, list[Row]]) -> None:
    for place, (name, mine) in enumerate(groups.items()):
        found = np.array(values(mine, "test"))
        arm = name.rpartition(": ")[2]
        color = BLUE if arm == "CE" else GREEN if "CC" not in arm else VERMILLION
        ax.plot([found.min(), found.max()], [place] * 2, color=GRID, linewidth=3, zorder=1)
        ax.plot(found, [place] * len(found), "o", color=color, markersize=3.5, alpha=0.7)
        ax.plot(found.mean(), place, "o", color=color, markersize=8, markerfacecolor="none")
    ax.set_yticks(range(len(groups)), list(groups))
    ax.set_ylim(len(groups) - 0.4, -0.6)
    percent_axis(ax, "x")

"""The figure of the study."""

from __future__ import annotations

from pathlib import Path

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


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Accuracy of every variant, recalibrated and after fine-tuning, the best first.

    Args:
        rows: Of one setting.
        path: Of the PNG.
    """
    names = list(dict.fromkeys(row["variant"] for row in rows if row["variant"] != "unpruned"))
    values = {
        name: {
            column: [float(row[column]) for row in rows if row["variant"] == name]
            for column in ("test", "test_finetuned", "params")
        }
        for name in names
    }
    names.sort(key=lambda name: -float(np.mean(values[name]["test"])))
    first = rows[0]
    figure, (ax,) = new_figure(
        8.6, 1.6 + 0.34 * len(names), "thinet beside Torch-Pruning at the same FLOPs",
        f"{first['model']} on the JPEG copy of CIFAR-10: test accuracy, BatchNorm recalibrated, "
        f"and after {first['epochs']} epochs of {int(first['finetune_images']):,} images",
    )  # fmt: skip
    for place, name in enumerate(names):
        color = VERMILLION if name.startswith("tp ") else BLUE
        before, after = (np.array(values[name][c]) for c in ("test", "test_finetuned"))
        ax.plot([before.mean(), after.mean()], [place] * 2, color=GRID, linewidth=3, zorder=1)
        for found, face in ((before, "white"), (after, color)):
            ax.errorbar(
                found.mean(), place, xerr=found.std(ddof=1) if len(found) > 1 else None, fmt="o",
                color=color, markerfacecolor=face, markersize=7, capsize=3,
            )  # fmt: skip
        ax.annotate(
            f"{np.mean(values[name]['params']) / 1e3:.0f} k", (1.02, place),
            xycoords=ax.get_yaxis_transform(), size=8.5, color=INK, va="center",
        )  # fmt: skip
    ax.annotate(
        "parameters", (1.02, -0.85), xycoords=ax.get_yaxis_transform(), size=8.5, color=MUTED
    )
    for row in rows:
        if row["variant"] == "unpruned":
            ax.axvline(float(row["test"]), color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    ax.set_yticks(range(len(names)), [name.replace("tp ", "Torch-Pruning ") for name in names])
    ax.set_ylim(len(names) - 0.4, -0.9)
    ax.set_xlabel("hollow: before fine-tuning; filled: after; bars: standard deviation over seeds")
    percent_axis(ax, "x")
    save_png(figure, path)

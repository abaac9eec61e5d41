"""The figure of the study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.timing import Row
from thinet.datasets.decoders import LOADERS
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

COLORS = dict(zip(LOADERS, (VERMILLION, BLUE), strict=True))


def draw(rows: Sequence[Row], where: str, path: Path) -> None:
    """Left: images per second; right: share of time that fine-tuning waits."""
    parts = [
        [row for row in rows if row["part"] == part and row["loader"] == LOADERS[0]]
        for part in ("throughput", "waiting")
    ]
    figure, axes = new_figure(
        11.0, 1.5 + 0.5 * max(map(len, parts)), "What a JPEG of ImageNet's size costs to load",
        where, columns=2,
    )  # fmt: skip
    for ax, first in zip(axes, parts, strict=True):
        part = first[0]["part"]
        for place, row in enumerate(reversed(first)):
            for loader, shift in zip(LOADERS, (0.19, -0.19), strict=True):
                same = {**row, "loader": loader}
                keys = ("part", "what", "workers", "loader")
                found = next(r for r in rows if all(r[key] == same[key] for key in keys))
                value = found["images_per_second"] if part == "throughput" else found["waiting"]
                value *= 1 if part == "throughput" else 100
                ax.barh(place + shift, value, 0.36, color=COLORS[loader],
                        label=loader if place == 0 else None)  # fmt: skip
                text = f"{value:.0f}" if part == "throughput" else f"{value:.1f} %"
                ax.annotate(text, (value, place + shift), xytext=(4, 0), va="center", size=7.5,
                            textcoords="offset points", color=INK)  # fmt: skip
        names = [
            f"{row['what']}\n{row['workers']} worker{'' if row['workers'] == 1 else 's'}"
            for row in reversed(first)
        ]
        ax.set_yticks(range(len(first)), names, size=8)
        ax.set_xlim(0, ax.get_xlim()[1] * 1.12)
    axes[0].set_xlabel("images per second")
    axes[0].grid(axis="x", color=GRID, linewidth=0.8)
    axes[1].set_xlabel("share of a fine-tuning epoch that waits for data")
    percent_axis(axes[1], "x")
    axes[1].legend(frameon=False, fontsize=8.5, labelcolor=MUTED, title="dataset.loader",
                   title_fontsize=8.5)  # fmt: skip
    save_png(figure, path)

"""The figures of the study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.criteria_cifar10.tables import NAMES, Rows, distinct, pick, values
from thinet.report.style import (
    CYCLE,
    MARKERS,
    MUTED,
    EndLabel,
    label_ends,
    new_figure,
    percent_axis,
    save_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEST = "#1F2430"


def draw(rows: Mapping[str, Rows], folder: Path) -> None:
    """Accuracy over the ratio before and after fine-tuning, and the test of single layers."""
    for base in rows["baseline"]:
        model = base["model"]
        ratios, alone = (pick(rows[part], model=model) for part in ("ratios", "single"))
        if ratios:
            _ratios(ratios, pick(rows["scratch"], model=model), base, folder)
        if alone:
            _single(alone, base, folder)


def _color(place: int) -> str:
    return CYCLE[place] if place < len(CYCLE) else BEST


def _ratios(rows: Rows, scratch: Rows, base: Mapping[str, str], folder: Path) -> None:
    model, epochs = base["model"], rows[0]["epochs"]
    seeds = len(distinct(rows, "seed"))
    figure, axes = new_figure(
        13.5, 5.4, f"Criteria on {NAMES.get(model, model)}: does the paper's order hold?",
        f"JPEG copy of CIFAR-10, test accuracy; mean and standard deviation over {seeds} seeds", 2,
    )  # fmt: skip
    titles = (
        "right after the cut" + (", BatchNorm recalibrated" if model != "vgg16_gap" else ""),
        f"after {epochs} epochs of {int(rows[0]['images']):,} images",
    )
    for ax, column, title in zip(axes, ("test", "test_finetuned"), titles, strict=True):
        ends = [
            _line(ax, pick(rows, way=way), column, way, place)
            for place, way in enumerate(distinct(rows, "way"))
        ]
        if column == "test_finetuned" and scratch:
            ends.append(_line(ax, scratch, "test", "from scratch", len(CYCLE) + 1, MUTED))
        ax.axhline(float(base["test"]), color=MUTED, linewidth=1, linestyle=(0, (5, 3)))
        ax.set_title(title, loc="left", size=10.5)
        ax.set_xlabel("r, the fraction of filters kept in every pruned layer")
        ax.invert_xaxis()
        percent_axis(ax)
        label_ends(ax, ends)
    save_png(figure, folder / f"{model}.png")


def _line(
    ax: Axes, rows: Rows, column: str, name: str, place: int, color: str | None = None
) -> EndLabel:
    color = color or _color(place)
    ratios = sorted(distinct(rows, "ratio"), key=float, reverse=True)
    found = [values(pick(rows, ratio=ratio), column) for ratio in ratios]
    x, y = [float(ratio) for ratio in ratios], [float(np.mean(one)) for one in found]
    spread = [float(np.std(one, ddof=1)) if len(one) > 1 else 0.0 for one in found]
    ax.errorbar(x, y, yerr=spread, color=color, marker=MARKERS[place % len(MARKERS)],
                markersize=5.5, linewidth=1.6, capsize=2.5)  # fmt: skip
    return EndLabel(x[-1], y[-1], name, color)


def _single(rows: Rows, base: Mapping[str, str], folder: Path) -> None:
    model = base["model"]
    layers, ways = distinct(rows, "layer"), distinct(rows, "way")
    figure, (ax,) = new_figure(
        9.5, 5.0, "60 % of one layer removed, nothing else, no fine-tuning",
        f"{NAMES.get(model, model)} on the JPEG copy of CIFAR-10, test accuracy; "
        f"mean over {len(distinct(rows, 'seed'))} seeds",
    )  # fmt: skip
    ends = []
    for place, way in enumerate(ways):
        y = [float(np.mean(values(pick(rows, way=way, layer=layer), "test"))) for layer in layers]
        ax.plot(range(len(layers)), y, color=_color(place), marker=MARKERS[place % len(MARKERS)],
                markersize=5.5, linewidth=1.4)  # fmt: skip
        ends.append(EndLabel(len(layers) - 1, y[-1], way, _color(place)))
    ax.axhline(float(base["test"]), color=MUTED, linewidth=1, linestyle=(0, (5, 3)))
    ax.set_xticks(range(len(layers)), layers, rotation=40, ha="right", size=8.5)
    percent_axis(ax)
    label_ends(ax, ends)
    save_png(figure, folder / f"{model}_single.png")

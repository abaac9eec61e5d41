"""The figure: seconds to plan and cut each network, with both tools, and what is left of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from thinet.report.style import BLUE, FAINT, GRID, INK, MUTED, VERMILLION, new_figure, save_png

FAMILIES = (
    ("plain", ("alexnet", "squeezenet", "vgg")),
    ("Inception", ("googlenet", "inception")),
    ("residual", ("resnet", "resnext", "wide_resnet")),
    ("dense", ("densenet",)),
    ("mobile", ("mobilenet", "mnasnet", "shufflenet")),
    ("EfficientNet", ("efficientnet",)),
    ("RegNet", ("regnet",)),
    ("ConvNeXt", ("convnext",)),
    ("transformers", ("vit", "swin", "maxvit")),
)
"""Title, and how the names of its networks begin."""
FAILURES = {"raises": "raises", "timeout": "too slow", "output does not run": "broken"}

Row = Mapping[str, str]


def families(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The families that occur, each from its least to its largest network."""
    found = []
    for title, beginnings in FAMILIES:
        members = [row for row in rows if row["name"].startswith(beginnings)]
        members.sort(key=lambda row: float(row.get("gflops") or 0))
        if members:
            found.append((title, members))
    return found


def halves(groups: list[tuple[str, list[Row]]]) -> list[list[tuple[str, list[Row]]]]:
    """Two columns of about the same height, no family torn apart."""
    heights = [len(members) + 1 for _, members in groups]
    cut = min(range(1, len(groups) + 1), key=lambda k: abs(sum(heights[:k]) - sum(heights[k:])))
    return [part for part in (groups[:cut], groups[cut:]) if part]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Dots on a logarithmic axis, a row for each network, in two columns."""
    columns = halves(families(rows))
    lines = max(sum(len(members) + 1 for _, members in column) for column in columns)
    ours = sum(row.get("status") == "ok" for row in rows)
    peers = [row["tp_status"] for row in rows if row.get("tp_status")]
    theirs = f"; Torch-Pruning: {peers.count('ok')} of {len(peers)}" if peers else ""
    figure, axes = new_figure(
        11.5, 1.6 + 0.152 * lines,
        f"thinet prunes {ours} of torchvision's {len(rows)} classifiers{theirs}",
        "CPU seconds to plan and cut with one thread, ratio 0.5; right of each row the FLOPs left "
        "(Torch-Pruning cuts residual streams too)",
        columns=len(columns),
    )  # fmt: skip
    for ax, column in zip(axes, columns, strict=True):
        _column(ax, column, lines)
    _legend(axes[0])
    save_png(figure, path)


def _column(ax: Axes, column: Sequence[tuple[str, list[Row]]], lines: int) -> None:
    ax.set_xscale("log")
    ax.set_xlim(0.02, 200)
    ax.set_ylim(lines - 0.3, -0.7)
    ax.set_xticks([0.1, 1, 10, 100], ["0.1 s", "1 s", "10 s", "100 s"])
    ax.minorticks_off()
    ax.xaxis.set_ticks_position("both")
    ax.tick_params(axis="x", length=0, labeltop=True)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.spines["bottom"].set_visible(False)
    ax.annotate(
        "FLOPs left", (1.2, 1), xycoords="axes fraction", xytext=(0, 6), size=8.5, color=MUTED,
        textcoords="offset points", ha="right", annotation_clip=False,
    )  # fmt: skip
    ticks, names = [], []
    at = 0
    for title, members in column:
        ax.annotate(
            title, (0, at), xycoords=ax.get_yaxis_transform(), xytext=(-7, 0), size=7.5,
            textcoords="offset points", weight="bold", color=MUTED, va="center", ha="right",
            annotation_clip=False,
        )  # fmt: skip
        ax.axhline(at, color=FAINT, linewidth=0.6)
        for row in members:
            at += 1
            ticks.append(at)
            names.append(row["name"])
            _row(ax, row, at)
        at += 1
    ax.set_yticks(ticks, names)
    ax.tick_params(axis="y", length=0, labelsize=7.5)


def _row(ax: Axes, row: Row, at: int) -> None:
    cut = float(row.get("plan_and_cut_s") or "nan")
    whole = cut + float(row.get("trial_s") or "nan")
    peer = float(row.get("tp_s") or "nan")
    ran = row.get("tp_status") == "ok"
    ax.plot([cut, whole], [at, at], color=BLUE, linewidth=0.8)
    ax.plot(whole, at, "|", color=BLUE, markersize=5)
    ax.plot(peer, at, "s" if ran else "x", color=VERMILLION, markersize=4 if ran else 5)
    ax.plot(cut, at, "o", color=BLUE, markersize=4.5)
    texts = [
        (1.07, _percent(row.get("flops_left")) or row.get("status", ""), BLUE),
        (1.2, _percent(row.get("tp_flops_left")) or _failure(row), VERMILLION),
    ]
    for x, text, color in texts:
        ax.annotate(
            text, (x, at), xycoords=ax.get_yaxis_transform(), size=7.5, color=color,
            va="center", ha="right", annotation_clip=False,
        )  # fmt: skip


def _percent(fraction: str | None) -> str:
    return f"{float(fraction) * 100:.0f} %" if fraction else ""


def _failure(row: Row) -> str:
    return FAILURES.get(row.get("tp_status", ""), "")


def _legend(ax: Axes) -> None:
    marks = [
        Line2D([], [], color=BLUE, marker="o", linestyle="", markersize=5),
        Line2D([], [], color=BLUE, marker="|", linestyle="-", linewidth=0.8, markersize=6),
        Line2D([], [], color=VERMILLION, marker="s", linestyle="", markersize=4.5),
        Line2D([], [], color=VERMILLION, marker="x", linestyle="", markersize=5),
    ]
    texts = ["thinet", "with the trial that checks the cut", "Torch-Pruning", "it fails"]
    ax.legend(
        marks, texts, loc="upper left", bbox_to_anchor=(-0.3, 1.075), ncols=4, frameon=False,
        fontsize=8.5, labelcolor=INK, handletextpad=0.4, columnspacing=1.6,
    )  # fmt: skip

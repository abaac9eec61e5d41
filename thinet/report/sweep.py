"""Many runs in one table and one figure: accuracy against the reduction of FLOPs."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinet.errors import ThinetError
from thinet.files import read_json, write_text_atomic
from thinet.report import numbers, style
from thinet.report.results import read_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    "name", "model", "dataset", "criterion", "reconstruction", "schedule", "ratio", "seed",
    "status", "top1_baseline", "top1", "top1_drop", "top5_baseline", "top5", "top1_cut",
    "top1_recalibrated", "flops", "flops_reduction", "params", "params_reduction",
    "latency_ms_baseline", "latency_ms", "seconds", "error",
)  # fmt: skip
_NAMES = ("name", "model", "dataset", "criterion", "reconstruction", "schedule", "seed")


def collect(folders: Iterable[str | Path]) -> list[dict[str, Any]]:
    """One row a run, finished or failed; runs still under way are left out.

    Args:
        folders: Run folders, or folders whose sub-folders are runs.

    Raises:
        ThinetError: If there is nothing to show.
    """
    found: list[Path] = []
    for folder in map(Path, folders):
        if (folder / "result.json").exists() or (folder / "failure.json").exists():
            found.append(folder)
        else:
            found += sorted(path.parent for path in folder.glob("*/result.json"))
    rows = [_row(folder) for folder in dict.fromkeys(found)]
    if not rows:
        raise ThinetError(
            "none of the folders holds a finished run: give run folders, for example outputs/*."
        )
    return rows


def _row(folder: Path) -> dict[str, Any]:
    empty = dict.fromkeys(COLUMNS)
    if (folder / "failure.json").exists() and not (folder / "result.json").exists():
        failure = read_json(folder / "failure.json")
        known = {key: failure.get(key) for key in (*_NAMES, "error")}
        return {
            **empty, **known, "ratio": numbers.keep_ratio(failure.get("ratio")), "status": "failed",
        }  # fmt: skip
    result = read_result(folder)
    before, after = result["baseline"], result.get("slim") or result["baseline"]
    cut = result.get("before_finetuning") or {}
    return {
        **empty,
        **{key: result.get(key) for key in _NAMES},
        "ratio": numbers.keep_ratio(result.get("ratio")),
        "status": "complete",
        "top1_baseline": before["top1"],
        "top1": after["top1"],
        "top1_drop": before["top1"] - after["top1"],
        "top5_baseline": before["top5"],
        "top5": after["top5"],
        "top1_cut": (cut.get("plain") or {}).get("top1"),
        "top1_recalibrated": (cut.get("recalibrated") or {}).get("top1"),
        "flops": after["flops"],
        "flops_reduction": 1 - after["flops"] / before["flops"],
        "params": after["params"],
        "params_reduction": 1 - after["params"] / before["params"],
        "latency_ms_baseline": before.get("latency_ms"),
        "latency_ms": after.get("latency_ms"),
        "seconds": result.get("seconds"),
    }


def write_sweep(folders: Iterable[str | Path], out: str | Path) -> tuple[Path, Path]:
    """Write ``sweep.csv`` and ``sweep.png`` over all points so far, each atomically.

    Args:
        folders: Run folders; see :func:`collect`.
        out: Folder to write to.

    Returns:
        The table and the figure.
    """
    rows = collect(folders)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    table = write_text_atomic(Path(out) / "sweep.csv", text.getvalue())
    return table, style.save_png(sweep_figure(rows), Path(out) / "sweep.png")


def sweep_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Accuracy against FLOPs reduction, one line for each way of pruning.

    Points of several seeds become their mean with a bar from the lowest to the highest.
    """
    done = [row for row in rows if row["status"] == "complete"]
    varied = [key for key in ("model", "dataset", "criterion", "reconstruction", "schedule")
              if key == "criterion" or len({row[key] for row in done}) > 1]  # fmt: skip
    lines: dict[str, dict[Any, list[dict[str, Any]]]] = {}
    for row in done:
        name = ", ".join(str(row[key]) for key in varied)
        lines.setdefault(name, {}).setdefault(row["ratio"], []).append(row)
    seeds = len({row["seed"] for row in done})
    figure, (ax,) = style.new_figure(
        8.2, 5.0, "Accuracy against FLOPs reduction", _caption(done, varied, len(rows), seeds)
    )
    _baselines(ax, done)
    ends = []
    for place, (name, points) in enumerate(lines.items()):
        color = style.CYCLE[place % len(style.CYCLE)]
        x, y, low, high = _points(list(points.values()))
        ax.plot(
            x, y, color=color, marker=style.MARKERS[place % len(style.MARKERS)], linewidth=1.8,
            markersize=6.5, markeredgecolor="white", markeredgewidth=0.7, label=name,
            linestyle=style.DASHES[place // len(style.CYCLE) % len(style.DASHES)],
        )  # fmt: skip
        if seeds > 1:
            ax.vlines(x, low, high, color=color, linewidth=1.2, alpha=0.7)
        ends.append(style.EndLabel(x[-1], y[-1], name, color))
    style.percent_axis(ax)
    ax.margins(x=0.03, y=0.08)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    ax.set_xlabel("FLOPs removed")
    ax.set_ylabel("top-1 accuracy on test")
    if ends:
        ax.set_ylim(*ax.get_ylim())
        style.label_ends(ax, ends)
    return figure


def _points(groups: list[list[dict[str, Any]]]) -> tuple[list[float], ...]:
    """Percentages in order of the reduction: x, mean, lowest and highest accuracy."""
    found = sorted(
        (
            100 * statistics.fmean(row["flops_reduction"] for row in group),
            100 * statistics.fmean(row["top1"] for row in group),
            100 * min(row["top1"] for row in group),
            100 * max(row["top1"] for row in group),
        )
        for group in groups
    )
    return tuple([point[axis] for point in found] for axis in range(4))


def _baselines(ax: Any, done: Sequence[dict[str, Any]]) -> None:
    for model in dict.fromkeys(row["model"] for row in done):
        values = {row["top1_baseline"] for row in done if row["model"] == model}
        mean = 100 * statistics.fmean(values)
        ax.axhline(mean, color=style.MUTED, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
        ax.annotate(
            f"baseline {mean:.2f} %", (0.01, mean), xycoords=ax.get_yaxis_transform(),
            xytext=(0, 3), textcoords="offset points", size=8.5, color=style.MUTED,
        )  # fmt: skip


def _caption(done: Sequence[dict[str, Any]], varied: list[str], points: int, seeds: int) -> str:
    parts = [
        str(done[0][key])
        for key in ("model", "dataset", "reconstruction", "schedule")
        if done and key not in varied
    ]
    parts.append(f"{points} points")
    if points > len(done):
        parts.append(f"{points - len(done)} failed")
    if seeds > 1:
        parts.append(f"mean of {seeds} seeds, bars from lowest to highest")
    return ", ".join(parts)

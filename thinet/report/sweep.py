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
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = (
    "name", "method", "model", "dataset", "criterion", "reconstruction", "schedule", "allocation",
    "ratio", "resize", "seed", "status", "top1_baseline", "top1", "top1_drop", "top5_baseline", "top5", "top1_cut",
    "top1_recalibrated", "flops", "flops_reduction", "params", "params_reduction",
    "latency_ms_baseline", "latency_ms", "seconds", "error",
)  # fmt: skip
WAYS = ("method", "model", "dataset", "criterion", "reconstruction", "schedule", "allocation")
_NAMES = ("name", *WAYS, "seed")


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
            ended = [*folder.glob("*/result.json"), *folder.glob("*/failure.json")]
            found += sorted({path.parent for path in ended})
    rows = [_row(folder) for folder in dict.fromkeys(found)]
    if not rows:
        raise ThinetError(
            "none of the folders holds a finished run: give run folders, for example outputs/*."
        )
    return rows


def _row(folder: Path) -> dict[str, Any]:
    try:
        if (folder / "result.json").exists():
            return _finished(read_result(folder))
        return _failed(read_json(folder / "failure.json"))
    except ThinetError as error:  # one damaged file must not take the table of the others with it
        return _failed({"name": folder.name, "error": str(error)})


def _failed(failure: dict[str, Any]) -> dict[str, Any]:
    known = {key: failure.get(key) for key in (*_NAMES, "error")}
    ratio = None if failure.get("ratio") is None else numbers.keep_ratio(failure["ratio"])
    return {**dict.fromkeys(COLUMNS), **known, "ratio": ratio, "status": "failed"}


def _finished(result: dict[str, Any]) -> dict[str, Any]:
    before, after = result["baseline"], result.get("slim") or result["baseline"]
    cut = result.get("before_finetuning") or {}
    measured = before.get("top1") is not None and after.get("top1") is not None
    return {
        **dict.fromkeys(COLUMNS),
        **{key: result.get(key) for key in _NAMES},
        "ratio": None if result.get("ratio") is None else numbers.keep_ratio(result["ratio"]),
        "resize": (result.get("protocol") or {}).get("resize"),
        "status": "complete",
        "top1_baseline": before.get("top1"),
        "top1": after.get("top1"),
        "top1_drop": before["top1"] - after["top1"] if measured else None,
        "top5_baseline": before.get("top5"),
        "top5": after.get("top5"),
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


def check_protocols(rows: Sequence[dict[str, Any]]) -> None:
    """Refuse to compare accuracies on images that were resized in different ways.

    The same network's accuracy differs by points between the two protocols of the ThiNet paper.

    Raises:
        ThinetError: If runs on one data set used different protocols.
    """
    for dataset in {row["dataset"] for row in rows}:
        of_it = [row for row in rows if row["dataset"] == dataset]
        first: dict[str, str] = {}
        for row in of_it:
            if row["resize"] is not None:
                first.setdefault(row["resize"], row["name"])
        if len(first) > 1:
            (one, a), (two, b) = list(first.items())[:2]
            raise ThinetError(
                f"accuracies under two evaluation protocols cannot be compared ({a} was tested "
                f"with dataset.resize={one}, {b} with dataset.resize={two}): give runs of one "
                "protocol, or repeat the others with it."
            )


def varied(rows: Sequence[dict[str, Any]], keys: Sequence[str] = WAYS) -> list[str]:
    """Name the settings that differ between rows; a value that is not known is no difference."""
    return [key for key in keys if len({row[key] for row in rows} - {None}) > 1]


def sweep_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Accuracy against FLOPs reduction, one line for each way of pruning.

    Points that share line and ratio (several seeds) become their mean, with a band from the lowest
    to the highest. Runs that pruned nothing and points that failed are not drawn.
    """
    done = [row for row in rows if row["top1"] is not None and row["ratio"] is not None]
    check_protocols(done)
    lines: dict[str, dict[Any, list[dict[str, Any]]]] = {}
    for row in done:
        keys = [key for key in WAYS if key == "criterion" or key in varied(done)]
        name = ", ".join(str(row[key]) for key in keys)
        lines.setdefault(name, {}).setdefault(row["ratio"], []).append(row)
    figure, (ax,) = style.new_figure(
        8.2, max(5.0, 2.4 + 0.22 * len(lines)), "Accuracy against FLOPs reduction",
        _caption(rows, done, {len(group) for line in lines.values() for group in line.values()}),
    )  # fmt: skip
    _baselines(ax, done)
    ends = [
        _draw_line(ax, place, name, list(points.values()))
        for place, (name, points) in enumerate(lines.items())
    ]
    style.percent_axis(ax)
    ax.margins(x=0.03, y=0.08)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    ax.set_xlabel("FLOPs removed")
    ax.set_ylabel("top-1 accuracy on test")
    if ends:
        ax.set_ylim(*ax.get_ylim())
        style.label_ends(ax, ends)
    else:
        ax.text(0.5, 0.5, "no finished point yet", transform=ax.transAxes, ha="center")
    return figure


def _draw_line(
    ax: Axes, place: int, name: str, groups: list[list[dict[str, Any]]]
) -> style.EndLabel:
    """Draw one line with its band, and return the label that belongs at its end."""
    color = style.CYCLE[place % len(style.CYCLE)]
    x, y, low, high = _points(groups)
    if low != high:
        ax.fill_between(x, low, high, color=color, alpha=0.13, linewidth=0)
        ax.vlines(x, low, high, color=color, linewidth=1.0, alpha=0.55)
    ax.plot(
        x, y, color=color, marker=style.MARKERS[place % len(style.MARKERS)], linewidth=1.8,
        markersize=6.5, markeredgecolor="white", markeredgewidth=0.7, label=name,
        linestyle=style.DASHES[place // len(style.CYCLE) % len(style.DASHES)],
    )  # fmt: skip
    return style.EndLabel(x[-1], y[-1], name, color)


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


def _baselines(ax: Axes, done: Sequence[dict[str, Any]]) -> None:
    """Draw a level line for the baseline of every model and data set: the mean over its seeds."""
    groups: dict[tuple[Any, ...], dict[Any, float]] = {}
    several = varied(done, ("model", "dataset"))
    for row in done:
        if row["top1_baseline"] is not None:
            key = tuple(row[name] for name in several)
            groups.setdefault(key, {})[row["seed"]] = row["top1_baseline"]
    for key, accuracies in groups.items():
        mean = 100 * statistics.fmean(accuracies.values())
        ax.axhline(mean, color=style.MUTED, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
        ax.annotate(
            " ".join(map(str, ("baseline", *key, f"{mean:.2f} %"))), (0.01, mean),
            xycoords=ax.get_yaxis_transform(), xytext=(0, 3), textcoords="offset points", size=8.5,
            color=style.MUTED, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip


def _caption(
    rows: Sequence[dict[str, Any]], done: Sequence[dict[str, Any]], sizes: set[int]
) -> str:
    shared = [key for key in WAYS if key != "criterion" and key not in varied(done)]
    parts = [str(done[0][key]) for key in shared if done]
    parts.append("1 point" if len(rows) == 1 else f"{len(rows)} points")
    failed = sum(row["status"] == "failed" for row in rows)
    if failed:
        parts.append(f"{failed} failed")
    if max(sizes, default=1) > 1:
        number = f"{max(sizes)}" if len(sizes) == 1 else f"up to {max(sizes)}"
        what = "seeds" if len({row["seed"] for row in done}) > 1 else "runs"
        parts.append(f"mean of {number} {what}, band from lowest to highest")
    return ", ".join(parts)

"""Many runs in one table and one figure: accuracy against the reduction of FLOPs."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinet.base.errors import ThinetError
from thinet.base.files import read_json, write_text_atomic
from thinet.report import numbers, style
from thinet.report.results import read_result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = (
    "name", "method", "model", "dataset", "images", "criterion", "reconstruction", "schedule",
    "allocation", "ratio", "resize", "seed", "status", "top1_baseline", "top1", "top1_drop",
    "top5_baseline", "top5", "top1_cut", "top1_recalibrated",
    "flops", "flops_reduction", "params", "params_reduction",
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
    rows = tell_apart([read_row(folder) for folder in find_runs(folders)])
    if not rows:
        raise ThinetError(
            "none of the folders holds a finished run: give run folders, for example outputs/*."
        )
    return rows


def find_runs(folders: Iterable[str | Path]) -> list[Path]:
    """The folders of the runs that have ended, finished or failed, each once; see `collect`."""
    found: list[Path] = []
    for folder in map(Path, folders):
        if (folder / "result.json").exists() or (folder / "failure.json").exists():
            found.append(folder)
        else:
            ended = [*folder.glob("*/result.json"), *folder.glob("*/failure.json")]
            found += sorted({path.parent for path in ended})
    return list(dict.fromkeys(found))


def read_row(folder: Path) -> dict[str, Any]:
    """The row of one run; one damaged file must not take the table of the others with it."""
    try:
        if (folder / "result.json").exists():
            return _finished(read_result(folder))
        return _failed(read_json(folder / "failure.json"))
    except ThinetError as error:
        return _failed({"name": folder.name, "error": str(error)})
    except (ArithmeticError, AttributeError, KeyError, TypeError) as error:
        text = f"the result is damaged ({error!r}): repeat the run with resume=off."
        return _failed({"name": folder.name, "error": text})


def tell_apart(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in which different images are different data sets, even if both are called ``folder``.

    Accuracies on them are not comparable; where a name stands for several, each gets its digits.
    """
    seen: dict[Any, set[str]] = {}
    for row in rows:
        if row["images"] is not None:
            seen.setdefault(row["dataset"], set()).add(row["images"])
    return [
        {**row, "dataset": f"{row['dataset']} {row['images']}"}
        if row["images"] is not None and len(seen[row["dataset"]]) > 1
        else row
        for row in rows
    ]


def _images(result: dict[str, Any]) -> str | None:
    """Eight digits for all images that a run had; None if it does not say."""
    found = result.get("images")
    if not found:
        return None
    text = json.dumps(found, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _failed(failure: dict[str, Any]) -> dict[str, Any]:
    known = {key: _name(failure.get(key)) for key in (*_NAMES, "error")}
    ratio = None if failure.get("ratio") is None else numbers.keep_ratio(failure["ratio"])
    return {**dict.fromkeys(COLUMNS), **known, "ratio": ratio, "status": "failed"}


def _finished(result: dict[str, Any]) -> dict[str, Any]:
    before, after = result["baseline"], result.get("slim") or result["baseline"]
    cut = result.get("before_finetuning") or {}
    old, new = _number(before.get("top1")), _number(after.get("top1"))
    names = {**{key: _name(result.get(key)) for key in _NAMES}, "ratio": result.get("ratio")}
    costs = [part[key] for part in (before, after) for key in ("flops", "params")]
    if not all(math.isfinite(cost) for cost in costs):
        raise TypeError("costs are not finite")
    if not result.get("slim"):  # these are settings of what was not done
        unused = ("criterion", "reconstruction") if result.get("method") == "train" else ()
        names |= dict.fromkeys(("ratio", "schedule", "allocation", *unused))
    return {
        **dict.fromkeys(COLUMNS),
        **names,
        "ratio": None if names["ratio"] is None else numbers.keep_ratio(names["ratio"]),
        "images": _images(result),
        "resize": (result.get("protocol") or {}).get("resize"),
        "status": "complete",
        "top1_baseline": old,
        "top1": new,
        "top1_drop": None if old is None or new is None else old - new,
        "top5_baseline": _number(before.get("top5")),
        "top5": _number(after.get("top5")),
        "top1_cut": _number((cut.get("plain") or {}).get("top1")),
        "top1_recalibrated": _number((cut.get("recalibrated") or {}).get("top1")),
        "flops": after["flops"],
        "flops_reduction": 1 - after["flops"] / before["flops"],
        "params": after["params"],
        "params_reduction": 1 - after["params"] / before["params"],
        "latency_ms_baseline": _number(before.get("latency_ms")),
        "latency_ms": _number(after.get("latency_ms")),
        "seconds": _number(result.get("seconds")),
    }


def _name(value: Any) -> Any:
    """What rows are sorted and grouped by, whatever a file contains."""
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _number(value: Any) -> Any:
    """The value itself where it is a number that can be drawn."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


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


def group_lines(
    done: Sequence[dict[str, Any]],
) -> dict[str, dict[Any, list[dict[str, Any]]]]:
    """Sort rows by the way of pruning, and those of one way by ratio: what is left are seeds."""
    keys = [key for key in WAYS if key == "criterion" or key in varied(done)]
    lines: dict[str, dict[Any, list[dict[str, Any]]]] = {}
    for row in done:
        name = ", ".join(str(row[key]) for key in keys)
        lines.setdefault(name, {}).setdefault(row["ratio"], []).append(row)
    return lines


def sweep_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Accuracy against FLOPs reduction, one line for each way of pruning.

    Points that share line and ratio (several seeds) become their mean, with a band from the lowest
    to the highest. Runs that pruned nothing and points that failed are not drawn.
    """
    done = [row for row in rows if row["top1"] is not None and row["ratio"] is not None]
    check_protocols(done)
    lines = group_lines(done)
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

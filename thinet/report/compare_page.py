"""Everything the template of a comparison needs, from the runs alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thinet.report.comparison import Entry, columns, differences, run_ranges, shared, width_maps
from thinet.report.curves import COSTS, Point, drawn, look, make_chart, points
from thinet.report.runs_table import figure_heads, make_lines, spreads


def compare_page(entries: Sequence[Entry], out: Path) -> dict[str, Any]:
    """The variables of ``compare.html.jinja``.

    Args:
        entries: The runs.
        out: The folder of the page, which its links start from.
    """
    rows = drawn(entry.row for entry in entries)
    datasets = [
        _dataset(place, name, [row for row in rows if row["dataset"] == name])
        for place, name in enumerate(dict.fromkeys(row["dataset"] for row in rows))
    ]
    fronts: dict[int, str] = {}
    ways: dict[int, str] = {}
    for dataset in datasets:
        ways |= dataset["ways"]
        for cost, found in dataset["fronts"].items():
            for number in (run for point in found for run in point.runs):
                fronts[number] = ", ".join(filter(None, (fronts.get(number), COSTS[cost])))
    keys = columns(entries)
    failed = sum(entry.row["status"] == "failed" for entry in entries)
    return {
        "title": "1 run" if len(entries) == 1 else f"{len(entries)} runs",
        "failed": failed,
        "shared": shared(entries),
        "datasets": datasets,
        "several_datasets": len(datasets) > 1,
        "settings": keys,
        "heads": figure_heads(entries),
        "lines": make_lines(entries, keys, fronts, ways, out),
        "maps": width_maps(entries),
        "differences": differences(entries),
    }


def _dataset(place: int, name: Any, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The curves of one data set: accuracies on different images share no axis."""
    found = {cost: points(rows, cost) for cost in COSTS}
    of_flops = found["flops"]
    fronts = {cost: [point for point in one if point.front] for cost, one in found.items()}
    charts = []
    for cost in COSTS:
        chart = make_chart(rows, cost)
        charts.append({"drawing": chart, "front": _front_text(fronts[cost])})
    names = dict.fromkeys((point.line, point.name) for point in of_flops)
    return {
        "place": place,
        "name": str(name),
        "charts": charts,
        "legend": [{**look(line), "name": text} for line, text in names],
        "fronts": fronts,
        "ways": {run: f"{place}-{point.line}" for point in of_flops for run in point.runs},
        "spreads": spreads(of_flops),
    }


def _front_text(front: Sequence[Point]) -> str:
    """Name the points of a front, the cheapest cut first."""
    named = [
        f"{point.name} {point.ratio} ({run_ranges(point.runs)})"
        for point in sorted(front, key=lambda point: point.mean, reverse=True)
    ]
    more = f" and {len(named) - 6} more" if len(named) > 6 else ""
    return ", ".join(named[:6]) + more

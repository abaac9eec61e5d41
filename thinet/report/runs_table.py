"""The table of a page over many runs: what stands in a cell, and the number it is sorted by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinet.report import numbers
from thinet.report.comparison import Entry, link
from thinet.report.curves import Point

Write = Callable[[dict[str, Any]], str]
Value = Callable[[dict[str, Any]], float | None]

LENGTH = 40
"""Characters of a setting that are shown, such as of a ratio for each layer."""


@dataclass(frozen=True)
class Cell:
    """A text and what it is sorted by; an empty ``value`` stands last in both directions."""

    text: str
    value: float | str = ""


@dataclass(frozen=True)
class Line:
    """A row of the table; a failed run has an ``error`` in the place of its figures."""

    entry: Entry
    settings: list[Cell]
    figures: list[Cell]
    address: str
    has_report: bool
    search: str
    way: str
    error: str


def _speedup(row: dict[str, Any]) -> float | None:
    before, after = row["latency_ms_baseline"], row["latency_ms"]
    return before / after if before and after and row["flops_reduction"] else None


def _share(key: str, digits: int = 2) -> tuple[Value, Write]:
    return (lambda row: row[key]), (lambda row: numbers.percent(row[key], digits))


FIGURES: dict[str, tuple[Value, Write]] = {
    "baseline": _share("top1_baseline"),
    "as cut": _share("top1_cut"),
    "recalibrated": _share("top1_recalibrated"),
    "top-1": _share("top1"),
    "change, points": (
        lambda row: None if row["top1_drop"] is None or row["ratio"] is None else -row["top1_drop"],
        lambda row: numbers.points(row["top1_baseline"], row["top1"]).removesuffix(" points"),
    ),
    "top-5": _share("top5"),
    "FLOPs removed": _share("flops_reduction", 1),
    "parameters removed": _share("params_reduction", 1),
    "FLOPs": (lambda row: row["flops"], lambda row: numbers.human(row["flops"])),
    "parameters": (lambda row: row["params"], lambda row: numbers.human(row["params"])),
    "faster": (
        _speedup, lambda row: numbers.ratio(row["latency_ms_baseline"], row["latency_ms"]),
    ),
    "time": (lambda row: row["seconds"], lambda row: numbers.seconds(row["seconds"])),
}  # fmt: skip


def figure_heads(entries: Sequence[Entry]) -> list[str]:
    """The figures that at least one run has."""
    return [
        head
        for head, (value, _) in FIGURES.items()
        if any(value(entry.row) is not None for entry in entries if not _failed(entry))
    ]


def _failed(entry: Entry) -> bool:
    return bool(entry.row["status"] == "failed")


def make_lines(
    entries: Sequence[Entry],
    keys: Sequence[str],
    fronts: Mapping[int, str],
    ways: Mapping[int, str],
    out: Path,
) -> list[Line]:
    """The rows of the table.

    Args:
        entries: The runs.
        keys: The settings that are columns.
        fronts: For a run on a Pareto front: of which costs, as text.
        ways: The line in the charts that a run belongs to.
        out: The folder of the page, which the links start from.
    """
    heads = figure_heads(entries)
    return [
        Line(
            entry=entry,
            settings=_settings(entry, keys),
            figures=_figures(entry, heads, fronts.get(entry.number, "")),
            address=link(entry.folder, out),
            has_report=(entry.folder / "report.html").exists(),
            search=_search(entry, fronts.get(entry.number, "")),
            way=ways.get(entry.number, ""),
            error=str(entry.row["error"] or "failed") if _failed(entry) else "",
        )
        for entry in entries
    ]


def _figures(entry: Entry, heads: Sequence[str], front: str) -> list[Cell]:
    if _failed(entry):
        return []
    cells = []
    for head in heads:
        value, write = FIGURES[head]
        found = value(entry.row)
        cells.append(Cell("n/a") if found is None else Cell(write(entry.row), found))
    return [*cells, Cell(front, front)]


def _search(entry: Entry, front: str) -> str:
    """What a filter of the form ``key=value`` is compared with, one a line."""
    words = {**entry.row, "front": front or None, "run": entry.number}
    return "\n".join(f"{key}={value}" for key, value in words.items() if value is not None).lower()


def _settings(entry: Entry, keys: Sequence[str]) -> list[Cell]:
    """The settings of a run that are columns."""
    found = []
    for key in keys:
        value = entry.row[key]
        number = _as_number(value)
        text = "–" if value is None else str(value)
        shown = text if len(text) <= LENGTH else f"{text[: LENGTH - 2]} …"
        found.append(Cell(shown, "" if value is None else text if number is None else number))
    return found


def _as_number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def spreads(found: Sequence[Point]) -> list[dict[str, str]]:
    """Mean and spread of the accuracy where runs differ in nothing but the seed."""
    return [
        {
            "name": point.name,
            "ratio": point.ratio,
            "runs": str(len(point.runs)),
            "mean": numbers.percent(point.mean),
            "deviation": f"{100 * point.spread:.2f}",
            "low": numbers.percent(point.low),
            "high": numbers.percent(point.high),
        }
        for point in found
        if point.spread is not None
    ]

"""What a page over many runs shows, besides its curves: widths, settings that differ, links."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from thinet.base.errors import ThinetError
from thinet.report import numbers
from thinet.report.results import pruned_layers, read_result
from thinet.report.sweep import WAYS, find_runs, read_row, tell_apart, varied

Width = tuple[int, int]
NOT_COMPARED = ("name", "paths", "logger", "hydra")
LENGTH = 160
"""Characters of a value that are shown."""


@dataclass
class Entry:
    """One run of the page: ``number`` is how the page calls it."""

    number: int
    folder: Path
    row: dict[str, Any]
    settings: dict[str, str] = field(default_factory=dict)
    widths: dict[str, Width] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)


def gather(folders: Iterable[str | Path]) -> list[Entry]:
    """Read the runs, of any method, in the order in which they are given.

    Args:
        folders: See :func:`thinet.report.sweep.collect`.

    Raises:
        ThinetError: If there is nothing to show.
    """
    entries = []
    for number, folder in enumerate(find_runs(folders), 1):
        entry = Entry(number, folder, {**read_row(folder), "number": number})
        if entry.row["status"] == "complete":
            result = read_result(folder)
            entry.settings = settings(result)
            entry.widths = _widths(result)
            entry.shares = _shares(result)
        entries.append(entry)
    for entry, row in zip(entries, tell_apart([one.row for one in entries]), strict=True):
        entry.row = row
    if not entries:
        raise ThinetError(
            "none of the folders holds a finished run: give run folders, for example outputs/*."
        )
    return entries


def settings(result: dict[str, Any]) -> dict[str, str]:
    """Configuration, images and environment of a result, nested keys joined by dots."""
    found: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, part in value.items():
                walk(f"{prefix}.{key}", part)
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            found[prefix] = text if len(text) <= LENGTH else f"{text[:LENGTH]} …"

    for part in ("config", "images", "environment"):
        if result.get(part):
            walk(part, result[part])
    return found


def _widths(result: dict[str, Any]) -> dict[str, Width]:
    try:
        return {
            str(layer["layer"]): (int(layer["filters_before"]), int(layer["filters_after"]))
            for layer in pruned_layers(result)
        }
    except (KeyError, TypeError, ValueError):
        return {}  # a table of widths is no reason to lose the page


def _shares(result: dict[str, Any]) -> dict[str, float]:
    try:
        found = (result.get("sensitivity") or {}).get("suggestion") or {}
        return {str(layer): float(share) for layer, share in found.items()}
    except (AttributeError, TypeError, ValueError):
        return {}


def link(folder: Path, out: Path) -> str:
    """The address of a folder from a page in ``out``; no name becomes a scheme or markup."""
    path = os.path.relpath(folder.resolve(), out.resolve())
    return f"./{quote(path.replace(os.sep, '/'))}/"


def differences(entries: Sequence[Entry]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The keys whose values differ, each with its values and the runs that have them.

    Keys that are the same in every run, such as a seed that is passed on, share a line.
    """
    known = [entry for entry in entries if entry.settings]
    keys = dict.fromkeys(key for entry in known for key in entry.settings)
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for key in keys:
        name = key.removeprefix("config.")
        if key != name and name.partition(".")[0] in NOT_COMPARED:
            continue
        values: dict[str, list[int]] = {}
        for entry in known:
            values.setdefault(entry.settings.get(key, "not set"), []).append(entry.number)
        if len(values) > 1:
            ranges = tuple((value, run_ranges(of_it)) for value, of_it in values.items())
            found.setdefault(ranges, []).append(name)
    return [(", ".join(names), list(ranges)) for ranges, names in found.items()]


def run_ranges(found: Iterable[int]) -> str:
    """Write run numbers shortly: ``[1, 2, 3, 7] -> '#1–3, #7'``."""
    spans: list[list[int]] = []
    for number in sorted(found):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"#{a}" if a == b else f"#{a}–{b}" for a, b in spans)


def width_maps(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """One heat map for each network: a row for every set of widths, a column for every layer.

    Runs with the same widths share a row, so that a sweep of criteria is not one map many times.
    """
    maps: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        if entry.widths or entry.shares:
            maps.setdefault((entry.row["model"], entry.row["dataset"]), []).append(entry)
    several = len(maps) > 1
    return [
        {"title": f"{model} on {dataset}" if several else "", **_width_map(of_it)}
        for (model, dataset), of_it in maps.items()
    ]


def _width_map(entries: Sequence[Entry]) -> dict[str, Any]:
    layers = dict.fromkeys(layer for entry in entries for layer in (*entry.widths, *entry.shares))
    full = {layer: before for entry in entries for layer, (before, _) in entry.widths.items()}
    alike: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        key = (tuple(entry.widths.items()), tuple(entry.shares.items()))
        alike.setdefault(key, []).append(entry)
    return {
        "layers": list(layers),
        "full": [full.get(layer) for layer in layers],
        "rows": [_width_row(group, list(layers), full) for group in alike.values()],
        "dense": len(layers) > 24,
    }


def _width_row(
    group: Sequence[Entry], layers: Sequence[str], full: Mapping[str, int]
) -> dict[str, Any]:
    first = group[0]
    cells = []
    for layer in layers:
        if layer in first.widths:
            before, after = first.widths[layer]
            share = after / before if before else 0.0
            title = f"{layer}: {before} → {after} filters, {numbers.percent(share, 1)} kept"
            cells.append({"share": share, "text": str(after), "title": title})
        elif layer in first.shares:
            share = first.shares[layer]
            title = f"{layer}: {numbers.percent(share, 1)} suggested"
            cells.append({"share": share, "text": f"{100 * share:.0f} %", "title": title})
        else:
            whole = full.get(layer)
            text = str(whole) if whole and not first.shares else ""
            cells.append({"share": 1.0 if text else 0.0, "text": text, "title": f"{layer}: whole"})
    ratios = {entry.row["ratio"] for entry in group}
    label = "suggested" if first.shares else ratios.pop() if len(ratios) == 1 else "several"
    return {"label": label, "runs": run_ranges(entry.number for entry in group), "cells": cells}


def columns(entries: Sequence[Entry]) -> list[str]:
    """The settings that tell runs apart: what all of them share stands above the table."""
    rows = [entry.row for entry in entries]
    differ = varied(rows, (*WAYS, "seed"))
    shown = [key for key in WAYS if key == "criterion" or key in differ]
    return [*shown, "ratio", *(["seed"] if "seed" in differ else [])]


def shared(entries: Sequence[Entry]) -> str:
    """What all runs have in common, in words."""
    rows = [entry.row for entry in entries if entry.row["status"] == "complete"]
    same = [
        str(rows[0][key])
        for key in WAYS
        if rows and key not in varied(rows) and key != "criterion" and rows[0][key] is not None
    ]
    return ", ".join(same)

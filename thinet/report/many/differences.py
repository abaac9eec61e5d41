"""The settings, images and machines in which runs differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from thinet.base.records import JSON
from thinet.report.many.runs import Entry
from thinet.run.result import Result

NOT_COMPARED = ("name", "paths", "logger", "hydra")
LENGTH = 160
"""Characters of a value that are shown."""


def settings(result: Result) -> dict[str, str]:
    """Configuration, images and environment of a result, nested keys joined by dots."""
    found: dict[str, str] = {}

    def walk(prefix: str, value: JSON) -> None:
        if isinstance(value, dict) and value:
            for key, part in value.items():
                walk(f"{prefix}.{key}", part)
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            found[prefix] = text if len(text) <= LENGTH else f"{text[:LENGTH]} …"

    parts: tuple[tuple[str, dict[str, JSON]], ...] = (
        ("config", result.config),
        ("images", {**result.images}),
        ("environment", result.environment),
    )
    for name, part in parts:
        if part:
            walk(name, part)
    return found


def differences(entries: Sequence[Entry]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The keys whose values differ, each with its values and the runs that have them.

    Keys that are the same in every run, such as a seed that is passed on, share a line. A key that
    a method does not read is no difference to runs of another method.
    """
    known = {one.number: settings(one.result) for one in entries if one.result}
    methods = {one.number: one.names["method"] for one in entries if one.result}
    keys = dict.fromkeys(key for found in known.values() for key in found)
    lines: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for key in keys:
        name = key.removeprefix("config.")
        if key != name and name.partition(".")[0] in NOT_COMPARED:
            continue
        reading = {methods[number] for number, found in known.items() if key in found}
        values: dict[str, list[int]] = {}
        for number, found in known.items():
            if methods[number] in reading:
                values.setdefault(found.get(key, "not set"), []).append(number)
        if len(values) > 1:
            ranges = tuple((value, run_ranges(of_it)) for value, of_it in values.items())
            lines.setdefault(ranges, []).append(name)
    return [(", ".join(names), list(ranges)) for ranges, names in lines.items()]


def run_ranges(found: Iterable[int]) -> str:
    """Write run numbers shortly: ``[1, 2, 3, 7] -> '#1–3, #7'``."""
    spans: list[list[int]] = []
    for number in sorted(found):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"#{a}" if a == b else f"#{a}–{b}" for a, b in spans)

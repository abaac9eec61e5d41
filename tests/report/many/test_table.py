from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import (
    measurement,
    pruned,
    scratch,
    toy,
    trained,
    write_failure,
    write_run,
)
from thinet.report.many.runs import Entry, gather
from thinet.report.many.sweep import shared
from thinet.report.many.table import figure_columns, setting_columns
from thinet.run.result import Result


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def make(*results: Result) -> list[Entry]:
        return gather(write_run(tmp_path / f"{k:03d}", result) for k, result in enumerate(results))

    return make


def cells(entry: Entry, entries: list[Entry]) -> dict[str, str]:
    assert entry.result
    found = {}
    for column in figure_columns(entries):
        value = column.value(entry, entry.result)
        found[column.head] = "n/a" if value is None else column.write(value)
    return found


def test_columns_are_what_tells_runs_apart(read: Any) -> None:
    entries = read(pruned(1), pruned(1, criterion="random", seed=1))
    assert setting_columns(entries) == ["criterion", "ratio", "seed"]
    assert shared(entries) == ["prune", "vgg16", "digits", "scale", "layerwise"]


def test_a_setting_that_some_methods_lack_is_shared_by_none(read: Any) -> None:
    entries = read(pruned(1), trained())
    assert setting_columns(entries) == [
        "method", "criterion", "reconstruction", "schedule", "ratio",
    ]  # fmt: skip
    assert shared(entries) == ["vgg16", "digits"]


def test_a_failed_run_that_does_not_say_is_no_difference(read: Any, tmp_path: Path) -> None:
    entries = read(pruned(1))
    folders = [*(one.folder for one in entries), write_failure(tmp_path / "x", ratio=0.9)]
    assert setting_columns(gather(folders)) == ["ratio"]


def test_costs_are_columns_where_networks_differ(read: Any) -> None:
    entries = read(pruned(1), trained())
    assert cells(entries[0], entries) == {
        "reference": "98.89 %", "as cut": "28.40 %", "recalibrated": "66.20 %",
        "top-1": "97.69 %", "change, points": "-1.20", "top-5": "99.19 %",
        "FLOPs removed": "69.0 %", "parameters removed": "27.6 %", "FLOPs": "9.59 B",
        "parameters": "100.16 M", "latency": "12.00 ms", "faster": "1.75x",
        "time": "12 min 34 s",
    }  # fmt: skip
    train = cells(entries[1], entries)
    assert (train["top-1"], train["FLOPs"]) == ("98.89 %", "30.94 B")
    for head in ("change, points", "FLOPs removed", "as cut", "faster"):
        assert train[head] == "n/a"


def test_costs_of_other_kinds_are_columns_too(read: Any) -> None:
    (entry,) = read(toy())
    found = cells(entry, [entry])
    assert (found["bits removed"], found["bits of parameters"]) == ("95.9 %", "65.50 K")
    assert found["binary operations"] == "1.90 M"
    assert {"parameters removed", "size removed", "binary operations removed"}.isdisjoint(found)


def test_two_measurements_of_one_network_are_not_faster(read: Any) -> None:
    same = replace(measurement(0.9), latency_ms=10.0)
    (entry,) = read(scratch(model=same))
    assert cells(entry, [entry])["latency"] == "10.00 ms"
    assert "faster" not in cells(entry, [entry])

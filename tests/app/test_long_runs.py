"""Nothing grows with the number of stages of a run, or of runs in a process."""

from __future__ import annotations

import csv
import itertools
import sys
from pathlib import Path

import pytest

from experiments.memory.run import measure_stages, measure_sweep

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")


def sweep(folder):
    return measure_sweep(Path(folder), 6, "finetune.stage.epochs=0", logger="wandb")


def stages(folder):
    return measure_stages(Path(folder), 2)


def test_points_of_a_sweep_leave_nothing_behind(tmp_path, monkeypatch, fresh):
    monkeypatch.setenv("WANDB_MODE", "offline")
    rows = fresh("tests.app.test_long_runs:sweep", str(tmp_path))
    (table,) = (tmp_path / "sweeps").glob("*/sweep.csv")
    with open(table, newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["complete"] * 6
    warm, last = rows[2], rows[-1]  # what is imported or cached once is there by the third
    for key in ("files", "threads", "handlers"):
        assert last[key] <= warm[key], key
    # The sweep's own list of points grows by a path each; a network or figure has thousands.
    assert (last["objects"] - warm["objects"]) / (len(rows) - 3) < 300


def test_stages_leave_nothing_behind_but_their_rows(tmp_path, fresh):
    rows = fresh("tests.app.test_long_runs:stages", str(tmp_path))
    assert len(rows) == 6
    first, last = rows[1], rows[-1]
    for key in ("files", "threads", "handlers"):
        assert last[key] <= first[key], key
    records = [sum(row[key] for key in ("state_kb", "metrics_kb", "run_kb")) for row in rows]
    steps = [after - before for before, after in itertools.pairwise(records)]
    assert max(steps) < 3 * min(steps)  # a row each: linear
    # The networks of earlier stages are gone; a later one is smaller.
    assert last["folder_kb"] - first["folder_kb"] <= records[-1] - records[1] + 1

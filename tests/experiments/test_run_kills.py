"""The kill study on a tiny run: it kills, repeats, compares, and would see a difference."""

from __future__ import annotations

import csv
import json

from experiments.run_kills import run as kills
from thinet.base.records import to_json
from thinet.run.result import Measurement, Result, RunRecord, StepRecord


def test_a_trial_kills_repeats_and_compares(tmp_path, monkeypatch):
    # Killed soon after its start, whatever the machine's speed: the run takes longer than that.
    monkeypatch.setattr(kills.random.Random, "uniform", lambda *_: 2.0)
    kills.main(["--smoke", "--work", str(tmp_path), "--out", str(tmp_path)])
    (row,) = csv.DictReader((tmp_path / "results_1.csv").read_text().splitlines())
    assert row["attempts"] == "2"
    assert (row["same_weights"], row["same_figures"]) == ("True", "True")
    assert float(row["killed_after"]) < float(row["of_seconds"])


def test_other_bits_and_other_figures_are_seen(tmp_path):
    def outputs(name, weights, top1, seconds):
        folder = tmp_path / name / "run"
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "model.safetensors").write_bytes(weights)
        found = Result(
            RunRecord("run", "prune", "vgg", "digits", 0, "python run.py", seconds), {}, (), {}, {},
            Measurement(2, 1, 1, 1, 1.0, latency_ms=seconds, top1=top1), "baseline",
            Measurement(2, 1, 1, 1, 1.0, top1=0.5), (StepRecord(0, "a", seconds),), {}, {}, {},
        )  # fmt: skip
        (folder / "result.json").write_text(json.dumps(to_json(found)))
        return kills.digest(tmp_path / name)

    one = outputs("one", b"a", 0.9, 1.0)
    assert outputs("slower", b"a", 0.9, 2.0) == one
    assert outputs("bits", b"b", 0.9, 1.0)[0] != one[0]
    assert outputs("figures", b"a", 0.8, 1.0)[1] != one[1]

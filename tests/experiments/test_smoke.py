"""``--smoke`` of every study: its whole command on tiny sizes. Figures are checked elsewhere."""

from __future__ import annotations

import csv
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.parent.name for path in ROOT.glob("experiments/*/run.py"))
ELSEWHERE = {"input_speed", "memory", "on_gpu", "run_kills", "start_kills", "sweep_kills"}
"""Those whose own tests, or the last ones here, do it: with processes, or without them."""


@pytest.mark.parametrize("study", sorted({*STUDIES} - ELSEWHERE - {"paper_tables"}))
def test_it_runs_and_leaves_its_own_results_alone(study, tmp_path, capsys):
    main = import_module(f"experiments.{study}.run").main
    main(["--smoke", "--out", str(tmp_path)])
    tables = [path for path in tmp_path.glob("*.csv") if list(csv.DictReader(path.open()))]
    assert tables
    assert list(tmp_path.glob("*.png"))
    with pytest.raises(SystemExit):
        main(["--smoke"])
    assert "add --out" in capsys.readouterr().err


@pytest.mark.parametrize("study", sorted(ELSEWHERE - {"memory", "sweep_kills"}))
def test_another_test_does_it(study):
    assert "--smoke" in (Path(__file__).parent / f"test_{study}.py").read_text()


def test_the_study_of_memory(tmp_path, monkeypatch):
    """Its parts are measured in ``tests/app/test_long_runs.py``."""
    from experiments.memory import run

    monkeypatch.setitem(run.PARTS, "csv", lambda folder, points: [{"part": "csv", "n": points}])
    (tmp_path / "results.csv").write_text("part,n\ncsv,50\nwandb,50\n")
    run.main(["csv", "--smoke", "--out", str(tmp_path)])
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert rows == [{"part": "wandb", "n": "50"}, {"part": "csv", "n": "1"}]


def test_the_study_of_killed_sweeps(tmp_path, capsys):
    """The parent of workers is killed: they end too, and nothing that is finished runs again."""
    from experiments.sweep_kills import run

    run.main(["--smoke", "--folder", str(tmp_path / "runs"), "--out", str(tmp_path / "found.csv")])
    (row,) = csv.DictReader((tmp_path / "found.csv").open())
    assert (row["points"], row["same_table"], row["finished_again"]) == ("2", "True", "0")
    assert row["results_rewritten"] == "0"

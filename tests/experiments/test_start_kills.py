"""The study of signals at the start: it sends them, sees who ends, keeps its rows, goes on."""

from __future__ import annotations

import csv
import json

import pytest

from experiments.start_kills import run as kills


def test_every_signal_meets_every_process_at_every_moment_it_lives():
    found = list(kills.cells())
    assert len(kills.MOMENTS) == 12
    assert len(found) == len(set(found)) == 12 * 3 * 2 + 8 * 3
    assert not [one for one in found if one[1] == "second" and one[2].startswith("the first")]


def test_cells_are_kept_and_not_run_again(tmp_path, monkeypatch):
    bits, repeated = ("weights", "figures"), []

    def repeat(work, outputs, more):
        repeated.append(kills.state_of(outputs))
        return "state", "weights", "others" if len(repeated) == 2 else "figures"

    monkeypatch.setattr(kills, "undisturbed", lambda *_: {"digests": bits})
    monkeypatch.setattr(kills, "repeat", repeat)
    only = "(SIGTERM|SIGKILL) (first|group) the first answers"
    arguments = ["--work", str(tmp_path), "--out", str(tmp_path), "--smoke", "--only"]
    kills.main([*arguments, only.replace("|group", "")])
    kills.main([*arguments, only])
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [(row["signal"], row["target"], row["code"], row["as_documented"]) for row in rows] == [
        ("SIGTERM", "first", "143", "True"), ("SIGKILL", "first", "137", "True"),
        ("SIGTERM", "group", "143", "True"), ("SIGKILL", "group", "137", "True"),
    ]  # fmt: skip
    assert [row["same_figures"] for row in rows] == ["True", "False", "True", "True"]
    assert len(repeated) == 4


def test_a_state_is_what_is_on_disk_but_for_times_and_random_names(tmp_path):
    def left(name, **files):
        folder = tmp_path / name / "run"
        folder.mkdir(parents=True)
        for file, text in files.items():
            (folder / file.replace("_", ".")).write_text(text)
        return kills.state_of(tmp_path / name)

    def state(run, seconds, step):
        return json.dumps({"run_id": run, "seconds": seconds, "step": step})

    one = left("one", state_json=state("a", 1, 3), run_log="10:00")
    assert left("two", state_json=state("b", 2, 3), run_log="11:00") == one
    assert left("three", state_json=state("a", 1, 4)) != one
    assert left("four", state_json=state("a", 1, 3), x="") != one


@pytest.mark.parametrize("moment", ["the second loads torch", "training begins"])
def test_a_run_that_ends_before_the_moment_is_not_a_cell(moment, tmp_path, monkeypatch):
    run = kills.subprocess.Popen(["true"])
    run.wait()
    (tmp_path / "log").write_text("")
    with pytest.raises(SystemExit, match=f"before this moment: {moment}"):
        kills._wait_for(moment, run, tmp_path / "log")

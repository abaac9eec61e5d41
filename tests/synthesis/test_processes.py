"""Two processes do what one does with the same whole batch, every term and memory included."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import thinet
from tests import warm
from tests.synthesis import on_processes

ROOT = Path(thinet.__file__).parents[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """What a process alone and each of two found."""
    folder = tmp_path_factory.mktemp("two")
    done = warm.run(
        [sys.executable, on_processes.__file__, folder], cwd=folder, timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    two = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return [on_processes.main(tmp_path_factory.mktemp("one"), 1), *two]


@pytest.mark.parametrize("kind", ["both", "imagining"])
def test_two_processes_are_one(kind, found):
    one, *two = (each[kind] for each in found)
    assert two[0]["digest"] == two[1]["digest"]
    for ours in two:
        assert ours["values"].keys() == one["values"].keys()
        for name, values in one["values"].items():
            assert ours["values"][name] == pytest.approx(values, rel=1e-3, abs=2e-4), name
        assert len(ours["figures"]) == len(one["figures"]) == 2
        for mine, theirs in zip(ours["figures"], one["figures"], strict=True):
            assert {"train/entropy", "train/batchnorm", "train/one_hot"} < theirs.keys()
            assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    if kind == "both":
        assert {name.partition(".")[0] for name in one["values"]} == {
            "network", "generator", "average", "pool"
        }  # fmt: skip


def test_told_to_stop_they_go_on_in_the_same_bits(found):
    for one in found[1:]:
        assert one["told"]["ended"]
        assert one["resumed"]["digest"] == one["both"]["digest"]
        assert one["told"]["figures"] + one["resumed"]["figures"] == one["both"]["figures"]


def test_one_of_them_may_draw_alone(found):
    assert found[1]["by oneself"] < 1e-5

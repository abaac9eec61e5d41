from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from thinet.base.errors import ThinetError
from thinet.sweeps.registry import SweepFolder


@pytest.fixture
def failure(tmp_path):
    """A run folder that stands for a failed point."""

    def make(name: str) -> Path:
        folder = tmp_path / "outputs" / name
        folder.mkdir(parents=True)
        (folder / "failure.json").write_text(json.dumps({"name": name, "error": "no"}))
        return folder

    return make


def names(points: SweepFolder) -> list[str]:
    with (points.out / "sweep.csv").open() as file:
        return [row["name"] for row in csv.DictReader(file)]


def test_the_table_is_in_order_of_numbers_whoever_ends_first(failure, tmp_path):
    points = SweepFolder(tmp_path / "sweep")
    points.begin()
    for number, name in ((11, "last"), (0, "first"), (2, "second")):
        points.take_in(number, failure(name), failed=True)
    line = points.write()
    assert names(points) == ["first", "second", "last"]
    assert line.startswith("sweep: 3 points, 3 failed; ")
    assert list(points.folders().values()) == [True, True, True]


def test_copies_in_other_processes_write_the_same_table(failure, tmp_path):
    points = SweepFolder(tmp_path / "sweep")
    points.begin()
    copy = SweepFolder(points.out, points.attempt)
    points.take_in(0, failure("a"), failed=True)
    copy.take_in(1, failure("b"), failed=True)
    points.write()
    assert names(points) == ["a", "b"]


def test_points_of_an_earlier_start_do_not_linger_and_its_workers_do_not_write(failure, tmp_path):
    earlier, later = SweepFolder(tmp_path / "sweep"), SweepFolder(tmp_path / "sweep")
    earlier.begin()
    earlier.take_in(0, failure("old"), failed=True)
    later.begin()
    later.take_in(0, failure("new"), failed=True)
    later.write()
    earlier.take_in(1, failure("orphan"), failed=True)
    assert earlier.write() is None
    assert later.write() is not None
    assert names(later) == ["new"]


def test_points_without_a_result_are_counted_and_no_figure_is_promised(tmp_path):
    points = SweepFolder(tmp_path / "sweep")
    points.begin()
    assert points.write().startswith("sweep: 0 points; no figure: ")


@pytest.mark.parametrize("name", ["points", "sweep.csv", ".lock", "points/earlier"])
def test_links_in_a_received_sweep_are_not_followed(name, tmp_path):
    theirs, mine = tmp_path / "sweep", tmp_path / "mine"
    (mine / "thesis").mkdir(parents=True)
    (mine / "thesis" / "a.txt").write_text("mine")
    (theirs / name).parent.mkdir(parents=True, exist_ok=True)
    (theirs / "attempt.json").write_text("{}")
    (theirs / name).symlink_to(mine)
    with pytest.raises(ThinetError, match="is a link to"):
        SweepFolder(theirs).begin()
    assert (mine / "thesis" / "a.txt").read_text() == "mine"
    assert (theirs / "attempt.json").read_text() == "{}"


def test_a_folder_that_is_no_sweep_is_left_alone(tmp_path):
    (tmp_path / "points" / "mine").mkdir(parents=True)
    with pytest.raises(ThinetError, match="holds no sweep"):
        SweepFolder(tmp_path).begin()
    assert (tmp_path / "points" / "mine").is_dir()

"""A sweep: one baseline, one table, one figure; a point that fails takes no other with it."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest

from thinet.app.config import check

ROOT = Path(__file__).parents[2]


def test_points_share_a_baseline_and_a_failed_one_is_listed(type_, tiny, tmp_path):
    outcome = type_("-m", *tiny, "schedule=oneshot", "criterion=thinet,weight_sum", "ratio=0.5,1")
    assert outcome.code == 2
    assert outcome.out.count("baseline: training") == 1
    assert outcome.err.count("nothing to prune") >= 1
    (table,) = (tmp_path / "outputs" / "sweeps").glob("*/sweep.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["criterion"], row["ratio"], row["status"]) for row in rows] == [
        ("thinet", "0.5", "complete"),
        ("thinet", "1", "failed"),
        ("weight_sum", "0.5", "complete"),
        ("weight_sum", "1", "failed"),
    ]
    assert len({row["top1_reference"] for row in rows if row["status"] == "complete"}) == 1
    assert (table.parent / "sweep.png").stat().st_size > 0


def test_typed_again_it_only_shows_what_is_there(type_, tiny, tmp_path):
    arguments = ("-m", *tiny, "schedule=oneshot", "ratio=0.5,0.75")
    assert type_(*arguments).code == 0
    again = type_(*arguments)
    assert again.code == 0
    assert again.out.count("has been run before") == 2
    assert len(list((tmp_path / "outputs" / "sweeps").iterdir())) == 1


TEXT = (ROOT / "docs" / "sweeps.md").read_text().replace("\\\n", " ")
COMMANDS = re.findall(r"^(?:srun .*|torchrun .*|\s+)?(?:python )?run\.py (.*)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_docs_are_valid(line, compose):
    words = [word for word in shlex.split(line.replace("<folder>", "MINE")) if word != "-m"]
    config = check(compose(*[word.split(",")[0] for word in words]))
    assert config["method"]["name"] == "prune"


def test_the_docs_have_a_command_for_every_preset():
    presets = {path.stem for path in (ROOT / "conf" / "sweep").glob("*.yaml")}
    assert presets <= set(re.findall(r"sweep=(\w+)", TEXT))
    assert len(COMMANDS) >= 8

"""What figures of test images are called, in one run's words and over many."""

from __future__ import annotations

import csv
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import measurement, pruned, trained, write_run
from thinet.base.errors import ThinetError
from thinet.base.evaluation import CLASSIFICATION, EVALUATIONS, RETRIEVAL
from thinet.report import write_sweep
from thinet.report.axes import FLOPS
from thinet.report.many.page import compare_page
from thinet.report.many.points import chart, datasets
from thinet.report.many.runs import gather
from thinet.report.many.table import figure_columns, make_rows
from thinet.report.sections import sections
from thinet.report.steps import accuracy_chart, reference_top1
from thinet.report.table import compare, headline
from thinet.run.result import Measurement, Result, read_result

FOUND = {"top10": 0.99, "mean_ap": 0.75}


def retrieved(top1: float = 0.8, **changes: Any) -> Result:
    """A pruned network whose test images were found by features."""
    result = pruned(1, top1=top1, evaluation=RETRIEVAL, **changes)
    assert result.model is not None
    return replace(
        result, settings={**result.settings, "evaluate": RETRIEVAL},
        reference=replace(result.reference, **FOUND),
        model=replace(result.model, **{key: value - 0.01 for key, value in FOUND.items()}),
    )  # fmt: skip


def test_every_figure_is_a_measurement() -> None:
    known = {one.name for one in fields(Measurement)}
    for kind in EVALUATIONS.values():
        assert {one.field for one in kind.figures} <= known
    assert EVALUATIONS[CLASSIFICATION].by_key({"top1": 1, "flops": 2}) == {"top1": 1, "flops": 2}
    retrieval = EVALUATIONS[RETRIEVAL]
    assert [one.key for one in retrieval.figures] == ["rank1", "rank5", "rank10", "mAP"]
    names = {"top1": 0, "top10": 1, "top1_cut": 2, "val_top1": 3, "flops": 4}
    assert retrieval.by_key(names) == {
        "rank1": 0, "rank10": 1, "rank1_cut": 2, "val_top1": 3, "flops": 4,
    }  # fmt: skip


def test_one_run_in_its_own_words() -> None:
    result = retrieved()
    assert headline(result) == "98.89 % rank-1 → 80.00 % rank-1 at 3.23x fewer FLOPs"
    lines = {one.label: (one.reference, one.model, one.change) for one in compare(result)}
    assert list(lines)[:4] == ["rank-1", "rank-5", "rank-10", "mAP"]
    assert lines["mAP"] == ("75.00 %", "74.00 %", "-1.00 points")
    assert [one.label for one in compare(pruned(1))][:3] == ["top-1", "top-5", "FLOPs"]


def test_what_is_found_is_no_level_for_the_classes_of_validation_images() -> None:
    base = measurement(0.9, val_top1=None)
    assert reference_top1(pruned(3, reference=base)) == (0.9, "validation (baseline: test)")
    result = replace(retrieved(), reference=base)
    assert reference_top1(result) == (None, "validation")
    drawn = accuracy_chart(result, sections(result))
    assert drawn is not None
    assert drawn.levels == ()
    assert drawn.y_label == "top-1 accuracy"


def test_runs_of_both_kinds_share_no_axis(tmp_path: Path) -> None:
    for name, result in {
        "a": pruned(1, seed=0), "b": retrieved(seed=0), "c": retrieved(seed=1, top1=0.82),
        "d": trained(dataset="other"),
    }.items():  # fmt: skip
        write_run(tmp_path / name, replace(result, run=replace(result.run, name=name)))
    entries = gather([tmp_path])
    found = datasets(entries)
    assert {name: [one.name for one in of_it] for name, of_it in found.items()} == {
        "digits, classification": ["a"], "other": ["d"], "digits, retrieval": ["b", "c"],
    }  # fmt: skip
    labels = {name: chart(of_it, FLOPS) for name, of_it in found.items()}
    assert labels["digits, classification"].y_label == "top-1 accuracy on test"
    assert labels["digits, retrieval"].y_label == "rank-1 (Recall@1) on test"
    assert labels["digits, retrieval"].title == "Rank-1 against FLOPs removed"

    columns = figure_columns(entries)
    heads = [column.head for column in columns]
    assert heads[:10] == [
        "reference", "as cut", "recalibrated", "top-1", "rank-1", "change, points", "top-5",
        "rank-5", "rank-10", "mAP",
    ]  # fmt: skip
    rows = make_rows(entries, [], columns, {}, {}, tmp_path)
    cells = [dict(zip(heads, (cell.text for cell in row.figures), strict=False)) for row in rows]
    assert [(one["top-1"], one["rank-1"], one["mAP"]) for one in cells[:2]] == [
        ("97.69 %", "n/a", "n/a"), ("n/a", "80.00 %", "74.00 %"),
    ]  # fmt: skip
    assert "rank1=0.8" in rows[1].search
    assert "top1=" not in rows[1].search

    page = compare_page(entries, tmp_path)
    assert [one.measured for one in page.datasets] == ["top-1", "top-1", "rank-1"]
    assert "accuracies on the test set; test images that find their like" in page.lead
    table, _ = write_sweep([tmp_path], tmp_path / "out")
    with table.open() as file:
        written = list(csv.DictReader(file))
    assert [row["rank1"] for row in written] == ["", "0.8", "0.82", ""]
    assert [row["top1"] for row in written] == ["0.9769", "", "", "0.9889"]


def test_runs_that_classify_have_no_columns_of_the_other_kind(tmp_path: Path) -> None:
    write_run(tmp_path / "a", pruned(1))
    table, _ = write_sweep([tmp_path], tmp_path / "out")
    header = table.read_text().splitlines()[0].split(",")
    assert not {"rank1", "mAP", "evaluate"} & set(header)
    place = header.index("top1_reference")
    assert header[place : place + 8] == [
        "top1_reference", "top1", "top1_drop", "top5_reference", "top5", "top1_alone", "top1_cut",
        "top1_recalibrated",
    ]  # fmt: skip


def test_an_evaluation_that_nobody_knows_is_damage(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", retrieved()) / "result.json"
    assert read_result(path).evaluated.main.name == "rank-1"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "evaluation": "guessing"}))
    with pytest.raises(ThinetError, match="damaged"):
        read_result(path)

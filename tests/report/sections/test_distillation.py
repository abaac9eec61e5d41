"""What is said of distillation: on the page of a run, on the terminal, beside other runs."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.report.conftest import (
    CCKD,
    KD,
    distillation_details,
    distilled,
    pruned,
    scratch,
    trained,
    write_run,
)
from thinet.base.errors import ThinetError
from thinet.base.records import to_json
from thinet.engine.lesson import Lesson
from thinet.report import compare_report, print_result, write_report
from thinet.report.figures import run_plots
from thinet.report.many.runs import gather
from thinet.report.sections import sections
from thinet.report.sections.distillation import Terms
from thinet.run.result import Result


def test_a_lesson_is_told_in_full() -> None:
    assert {one.name for one in fields(Terms)} == {one.name for one in fields(Lesson)}


def text_of(result: Result) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    print_result(result, console)
    return console.export_text()


def test_teacher_student_alone_and_student_distilled(tmp_path: Path) -> None:
    (section,) = sections(distilled())
    (table,) = section.tables()
    assert [row[:4] for row in table.rows] == [
        ("teacher resnet110", "95.00 %", "96.50 %", "30.94 B"),
        ("student vgg16, labels alone", "80.00 %", "81.50 %", "618.80 M"),
        ("student vgg16, distilled", "91.00 %", "92.50 %", "618.80 M"),
    ]
    assert [row[5] for row in table.rows] == ["21.00 ms", "21.00 ms", "2.00 ms"]
    assert "8 epochs" in table.note
    page, text = write_report(distilled(), tmp_path).read_text(), text_of(distilled())
    for found in (page, text):
        for words in ("teacher resnet110", "labels alone", "+11.00 points", "618.80 M"):
            assert words in found
        for words in ("baseline", "pruned"):
            assert words not in found
    assert page.index("student vgg16, distilled") < page.index("<h2>Steps</h2>")


def test_a_gain_may_be_a_loss() -> None:
    (section,) = sections(distilled(top1=0.78))
    assert section.lines()[0] == "distilled against labels alone: -2.00 points of top-1"


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (
            CCKD,
            "0.1 × cross-entropy of the labels + 0.9 × soft targets at temperature 4 + 100 × "
            "correlation congruence (rbf, gamma 0.4, order 2, features of length 1)",
        ),
        (KD, "0.1 × cross-entropy of the labels + 0.9 × soft targets at temperature 4"),
        (replace(KD, alpha=1.0), "1 × cross-entropy of the labels"),
        (
            replace(CCKD, alpha=0.0, order=None, project=128),
            "1 × soft targets at temperature 4 + 100 × correlation congruence (rbf, gamma 0.4, "
            "exact, features of length 1, the student's projected to 128)",
        ),
        (
            replace(CCKD, alpha=0, kernel="bilinear", normalize=False, feature="fc", beta=0.02),
            "1 × soft targets at temperature 4 + 0.02 × correlation congruence (bilinear, "
            "features as they are, input of fc)",
        ),
    ],
)
def test_the_loss_in_words(terms: Terms, words: str) -> None:
    assert terms.words() == words


@pytest.mark.parametrize("made", [pruned(2), scratch(), trained()], ids=lambda one: one.run.method)
def test_another_method_tells_how_to_find_what_the_teacher_is_worth(made: Result) -> None:
    own = distillation_details(teacher="", alone=None, epochs=None, sampler="class_uniform")
    run = replace(made.run, command="python run.py distill=cckd distill.beta=7 name=a seed=3")
    result = replace(made, run=run, details={**made.details, "distillation": to_json(own)})
    section = sections(result)[0]

    assert section.tables() == []
    assert section.figures() == {"top1_alone": None}
    first, second = section.lines()
    assert first.startswith("taught by the network that the run began with: 0.1 × ")
    assert first.endswith("; class_uniform batches")
    assert second == "the same by labels alone, to compare: python run.py seed=3 distill=none"
    assert first in text_of(result)


def test_a_damaged_command_is_one_sentence() -> None:
    own = to_json(distillation_details(alone=None))
    result = trained(details={"distillation": own}, command="python run.py note='unclosed")
    (section,) = sections(result)
    with pytest.raises(ThinetError, match=r"the command in the result of .* with resume=off\.$"):
        section.lines()


def test_a_student_without_control_has_no_gain() -> None:
    result = distilled(found=distillation_details(alone=None))
    (section,) = sections(result)
    assert section.tables() == []
    assert len(section.lines()) == 1
    assert section.figures() == {"top1_alone": None}


def test_no_line_leads_from_a_teacher_to_its_student() -> None:
    assert run_plots(distilled(), []) == []
    (step,) = distilled().steps
    result = distilled(steps=(step, replace(step, index=1, name="further")))
    (plot,) = run_plots(result, [])
    heights = {one.get_label(): list(one.get_ydata()) for one in plot.draw().axes[0].get_lines()}
    assert math.isnan(heights["top-1"][0])
    assert heights["top-1"][1:] == pytest.approx([90, 90, 90.5])
    assert heights["teacher 94.50 %"][0] == pytest.approx(94.5)


@pytest.mark.parametrize(
    "damage",
    [
        {"terms": {"alpha": 0.1}},
        {"terms": {**to_json(CCKD), "alpha": "much"}},
        {"alone": {"top1": 0.5}},
        {"alone": [1]},
        {"teacher": None},
        {"more": 1},
    ],
    ids=str,
)
def test_damaged_details_are_one_sentence(tmp_path: Path, damage: dict[str, Any]) -> None:
    sound = to_json(distillation_details())
    result = distilled(details={"distillation": {**sound, **damage}})
    with pytest.raises(ThinetError) as error:
        write_report(result, tmp_path)
    text = str(error.value)
    assert text.startswith("the details of distillation in the result of vgg16-digits-distill are")
    assert text.endswith("repeat the run with resume=off.")
    assert "\n" not in text
    (entry,) = gather([write_run(tmp_path / "run", result)])
    assert (entry.status, entry.accuracies) == ("complete", {})


def test_a_sweep_of_distillation_is_told_apart(tmp_path: Path) -> None:
    folders = []
    for number, (distill, sampler, terms) in enumerate(
        [("none", "", None), ("kd", "", KD), ("cckd", "", CCKD), ("cckd", "class_uniform", CCKD)]
    ):
        result = pruned(2, top1=0.90 + number / 100, name=f"run{number}")
        own = {key: value for key, value in (("distill", distill), ("sampler", sampler))
               if value not in ("none", "")}  # fmt: skip
        details = dict(result.details)
        if terms:
            details["distillation"] = to_json(distillation_details(teacher="", alone=None))
        config = {"distill": {"name": distill}, "sampler": {"name": sampler or "uniform"}}
        result = replace(
            result, settings={**result.settings, **own}, details=details, config=config
        )
        folders.append(write_run(tmp_path / result.run.name, result))
    page = compare_report(folders, tmp_path / "out").read_text()

    legend = (
        "distill none, uniform", "kd, uniform", "cckd, uniform", "cckd, class_uniform",
    )  # fmt: skip
    assert all(f"{words}<" in page for words in legend)
    rows = list(csv.DictReader((tmp_path / "out" / "sweep.csv").open()))
    assert [(row["distill"], row["sampler"]) for row in rows] == [
        ("none", "uniform"), ("kd", "uniform"), ("cckd", "uniform"), ("cckd", "class_uniform"),
    ]  # fmt: skip
    assert {row["top1_alone"] for row in rows} == {""}


def test_what_all_runs_do_without_is_not_said(tmp_path: Path) -> None:
    result = replace(pruned(1), config={"distill": {"name": "none"}})
    folders = [write_run(tmp_path / name, result) for name in ("a", "b")]
    assert all("distill" not in one.settings for one in gather(folders))


def test_students_of_one_teacher_on_one_page(tmp_path: Path) -> None:
    results = [
        distilled(0.88, distillation_details(terms=KD), name="kd",
                  settings={"distill": "kd", "teacher": "resnet110"}),
        distilled(0.91, name="cckd"),
    ]  # fmt: skip
    folders = [write_run(tmp_path / one.run.name, one) for one in results]
    page = compare_report(folders, tmp_path / "out").read_text()

    for words in ("labels alone", "80.00 %", "teacher resnet110", "teacher 95.00 %", ">kd<"):
        assert words in page, words
    for words in ("baseline", "pruned"):
        assert words not in page, words

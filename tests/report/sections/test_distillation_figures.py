"""What is drawn of distillation, from ``metrics.csv`` beside a result."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex

from tests.report.conftest import KD, distillation_details, distilled, pruned, write_run
from thinet.base.records import to_json
from thinet.engine import distilled as logged
from thinet.report import draw_figures, write_report
from thinet.report.courses import LOGGED, courses
from thinet.report.figures import run_plots
from thinet.report.sections import sections
from thinet.report.sections.distillation import figures
from thinet.report.sections.distillation.figures import TERMS, stage_bounds
from thinet.run.result import Result, StepRecord

EPOCHS = 8
VALUES = {
    "cross_entropy": [2.0 / k for k in range(1, EPOCHS + 1)],
    "soft_targets": [11.0 / k for k in range(1, EPOCHS + 1)],
    "correlation": [0.02 / k for k in range(1, EPOCHS + 1)],
    "agreement": [1 - 0.9 / k for k in range(1, EPOCHS + 1)],
    "gradient_share_cross_entropy": [0.05 + k / 100 for k in range(EPOCHS)],
    "gradient_share_soft_targets": [0.25 + k / 20 for k in range(EPOCHS)],
    "gradient_share_correlation": [0.7 - 6 * k / 100 for k in range(EPOCHS)],
}
TEACHER_EPOCHS = 3


def log(folder: Path, values: Mapping[str, Sequence[float]], before: int = TEACHER_EPOCHS) -> Path:
    """The file of a run in which a teacher was trained first, for ``before`` epochs."""
    heads = ["step", "train/lr", "val/top1", "train/loss", *(f"train/{name}" for name in values)]
    rows = [f"{10 * k},,,{3.0 / k}" + "," * len(values) for k in range(1, before + 1)]
    for k, found in enumerate(zip(*values.values(), strict=True)):
        step = 10 * (before + 1 + k)
        rows.append(f"{step - 5},0.01,," + "," * len(values))
        rows.append(f"{step},,0.9," + "," * len(values))
        rows.append(f"{step},,,1.0," + ",".join(map(str, found)))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOGGED).write_text("\n".join([",".join(heads), *rows]) + "\n")
    return folder


def drawn(result: Result, folder: Path) -> dict[str, Any]:
    plots = run_plots(result, sections(result), folder)
    return {one.name: one.draw() for one in plots if one.name.startswith("distillation")}


def panels(figure: Any) -> dict[str, tuple[str, list[float], list[float], str]]:
    """For each line by its label: the title of its panel, x, y and colour."""
    return {
        line.get_label(): (
            ax.get_title(loc="left"), list(line.get_xdata()), list(line.get_ydata()),
            line.get_color(),
        )
        for ax in figure.axes
        for line in ax.get_lines()
        if not line.get_label().startswith("_")
    }  # fmt: skip


def stripes(figure: Any) -> dict[str, list[tuple[float, float, str]]]:
    """For each term by its words: lower edge, height and colour of every bar."""
    (ax,) = figure.axes
    return {
        bars.get_label(): [(one.get_y(), one.get_height(), to_hex(one.get_facecolor()).upper())
                           for one in bars]
        for bars in ax.containers
    }  # fmt: skip


def test_the_names_are_those_that_training_logs() -> None:
    for name in ("CROSS_ENTROPY", "SOFT_TARGETS", "CORRELATION", "AGREEMENT", "SHARE"):
        assert getattr(figures, name) == getattr(logged, name)


def test_each_panel_holds_its_term_and_no_other(tmp_path: Path) -> None:
    figure = drawn(distilled(), log(tmp_path, VALUES))["distillation_terms"]

    found = panels(figure)
    assert list(found) == ["cross_entropy", "soft_targets", "correlation", "agreement"]
    for name, scale in zip(found, (1, 1, 1, 100), strict=True):
        title, x, y, color = found[name]
        assert x == list(range(1, EPOCHS + 1)), "epochs of the student alone"
        assert y == pytest.approx([scale * value for value in VALUES[name]]), name
        if name in TERMS:
            assert (title.partition(",")[0], color) == TERMS[name]
    assert [title.partition(", ")[2] for title, *_ in found.values()] == [
        "weight 0.1", "weight 0.9", "weight 100", "",
    ]  # fmt: skip


def test_shares_are_stacked_to_one_whole(tmp_path: Path) -> None:
    figure = drawn(distilled(), log(tmp_path, VALUES))["distillation_gradients"]

    found = stripes(figure)
    below = [0.0] * EPOCHS
    assert list(found) == [words for words, _ in TERMS.values()]
    for name, (words, color) in TERMS.items():
        wanted = [100 * value for value in VALUES[f"gradient_share_{name}"]]
        assert [height for _, height, _ in found[words]] == pytest.approx(wanted), name
        assert [low for low, *_ in found[words]] == pytest.approx(below), name
        assert {paint for *_, paint in found[words]} == {color.upper()}
        below = [a + b for a, b in zip(below, wanted, strict=True)]
    assert below == pytest.approx([100] * EPOCHS)
    ends = [text.get_text() for text in figure.axes[0].texts]
    assert ends == [
        "cross-entropy of the labels 12 %", "soft targets 60 %", "correlation congruence 28 %",
    ]  # fmt: skip


def test_soft_targets_alone_have_two_terms_and_one_is_only_watched(tmp_path: Path) -> None:
    values = {name: one for name, one in VALUES.items() if name != "gradient_share_correlation"}
    result = distilled(found=distillation_details(terms=KD))
    found = drawn(result, log(tmp_path, values))

    titles = [title for title, *_ in panels(found["distillation_terms"]).values()]
    assert titles[2] == "correlation congruence, only watched"
    assert list(stripes(found["distillation_gradients"])) == [
        "cross-entropy of the labels", "soft targets",
    ]  # fmt: skip


def test_without_features_there_is_neither_correlation_nor_share(tmp_path: Path) -> None:
    names = ("cross_entropy", "soft_targets", "agreement")
    found = drawn(distilled(), log(tmp_path, {name: VALUES[name] for name in names}))

    assert list(found) == ["distillation_terms"]
    assert list(panels(found["distillation_terms"])) == list(names)


def test_stages_follow_each_other_and_their_beginnings_are_marked(tmp_path: Path) -> None:
    result = pruned(3)
    steps = tuple(replace(step, epochs=n) for step, n in zip(result.steps, (2, 2, 4), strict=True))
    details = {**result.details, "distillation": to_json(distillation_details(alone=None))}
    figure = drawn(replace(result, steps=steps, details=details), log(tmp_path, VALUES))[
        "distillation_terms"
    ]
    for ax in figure.axes:
        lines = [line for line in ax.get_lines() if line.get_label().startswith("_")]
        assert [line.get_xdata()[0] for line in lines] == [2.5, 4.5]
    assert any("3 stages in a row (vertical" in text.get_text() for text in figure.texts)


def test_many_stages_are_counted_and_not_marked(tmp_path: Path) -> None:
    result = pruned(54)  # an epoch each
    details = {**result.details, "distillation": to_json(distillation_details(alone=None))}
    values = {name: [one[0]] * 54 for name, one in VALUES.items()}
    found = drawn(replace(result, details=details), log(tmp_path, values))
    for figure in found.values():
        assert any("54 stages in a row" in text.get_text() for text in figure.texts)
        assert not any(
            line.get_label().startswith("_") for ax in figure.axes for line in ax.get_lines()
        )


def test_a_single_epoch_has_a_tick_of_its_own(tmp_path: Path) -> None:
    values = {name: one[:1] for name, one in VALUES.items()}
    for figure in drawn(distilled(), log(tmp_path, values)).values():
        assert [tick for tick in figure.axes[0].get_xticks() if 0.4 < tick < 1.6] == [1]


def test_bounds_are_those_of_the_epochs_that_were_logged() -> None:
    steps = [StepRecord(k, str(k), 1.0, epochs) for k, epochs in enumerate((3, 0, 5))]
    assert stage_bounds(steps, 8) == [3]
    assert stage_bounds(steps, 7) == []
    assert stage_bounds([], 8) == []


@pytest.mark.parametrize("epochs", [1, 300])
def test_few_and_many_epochs_are_drawn(tmp_path: Path, epochs: int) -> None:
    values = {name: [one[0]] * epochs for name, one in VALUES.items()}
    found = drawn(distilled(), log(tmp_path, values))
    assert len(panels(found["distillation_terms"])["correlation"][1]) == epochs
    assert len(stripes(found["distillation_gradients"])["soft targets"]) == epochs


def test_a_run_that_was_moved_or_found_its_teacher_in_the_cache_draws_the_same(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path / "run", distilled())
    log(folder, VALUES)
    before = {
        path.name: path.read_bytes() for path in draw_figures(distilled(), folder / "figures")
    }
    assert {"distillation_terms.png", "distillation_gradients.png"} <= set(before)

    moved = tmp_path / "elsewhere" / "run"
    shutil.copytree(folder, moved, ignore=shutil.ignore_patterns("figures"))
    log(moved, VALUES, before=0)
    after = {path.name: path.read_bytes() for path in draw_figures(distilled(), moved / "figures")}
    assert after == before


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"step,train/loss\n1,2.0\n",
        b"\xff\xfe\x00",
        b'step,train/soft_targets\n1,"' + b"x" * 200_000,
    ],
    ids=["missing", "empty", "another training", "bytes", "a huge cell"],
)
def test_without_what_was_logged_there_is_no_figure(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / LOGGED).write_bytes(content)
    assert drawn(distilled(), tmp_path) == {}
    assert "Teacher, student by labels alone" in write_report(distilled(), tmp_path).read_text()


def test_what_is_no_number_is_not_known(tmp_path: Path) -> None:
    (tmp_path / LOGGED).write_text(
        "step,train/soft_targets,train/correlation\n1,1.5,0.1\n2,2.5,inf\n3,1.0,x\n4,0.5\n5,,7\n"
    )
    found = courses(tmp_path, "soft_targets")
    assert found["soft_targets"] == [1.5, 2.5, 1.0, 0.5]
    assert found["correlation"][0] == 0.1
    assert all(math.isnan(value) for value in found["correlation"][1:])

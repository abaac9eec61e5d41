"""What is said of learning without data: on the page of a run, on the terminal, in figures."""

from __future__ import annotations

import io
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.report.conftest import measurement, write_run
from tests.report.datafree import (
    COUNTS,
    EPOCHS,
    TOP1,
    datafree,
    details,
    draw_pictures,
    row,
    without_images,
)
from thinet.base.errors import ThinetError
from thinet.base.records import to_json
from thinet.report import draw_figures, print_result, write_report
from thinet.report.courses import LOGGED
from thinet.report.figures import run_plots
from thinet.report.many.runs import gather
from thinet.report.sections import sections
from thinet.report.sections.synthesis import save_grid
from thinet.report.sections.synthesis.details import last_tenth
from thinet.report.sections.synthesis.grid import GAP, LARGEST, PAPER, WIDEST
from thinet.run.result import Result

NAMES = ["synthesis_accuracy", "synthesis_losses", "synthesis_balance", "synthesis_classes"]


def text_of(result: Result) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    print_result(result, console)
    return " ".join(console.export_text().split())


def lines_of(result: Result) -> list[str]:
    (section,) = sections(result)
    return list(section.lines())


def drawn(result: Result, folder: Path | None = None) -> dict[str, Any]:
    plots = run_plots(result, sections(result), folder)
    return {one.name: one.draw() for one in plots if one.name.startswith("synthesis")}


def texts_of(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_what_was_drawn_for_what_and_what_it_is_worth() -> None:
    found = details(alarms=("the images are all alike: type this.",))
    spread = 100 * statistics.stdev(TOP1)
    assert lines_of(datafree(found)) == [
        "alarm: the images are all alike: type this.",
        "drawn images against noise: +31.00 points of top-1",
        "resnet18 taught by resnet34 through soft targets at temperature 4 on 307,200 drawn images "
        "in 1,200 iterations; generator of 221,315 parameters, trained in turn with the student",
        "drawn for 1 × one-hot + 0.1 × activation (mean over features) + 5 × information entropy "
        "(base 10, sum over classes) + 2 × BatchNorm statistics",
        f"validation top-1 of the last 3 epochs: 85.00 % ± {spread:.2f} points; the student of the "
        "last is kept; best epoch on validation images 90.00 % (epoch 29), a diagnostic: not "
        "chosen",
        "of the last 64 images the teacher sees 4 to 30 in each class, 4 of 4 classes in all "
        "(entropy 0.85 of 1); spread 0.70 of 1",
    ]
    assert "alarm: the images are all alike" in text_of(datafree(found))


def test_the_conventions_of_the_paper_are_told_apart_from_those_of_the_code() -> None:
    weights = {"one_hot": 0.0, "activation": 0.1, "entropy": 20.0}
    found = details(weights=weights, base=math.e, entropy_reduction="mean", learn="l1",
                    activation_reduction="sum", mode="generator_first")  # fmt: skip
    lines = lines_of(datafree(found))
    assert (
        "drawn for 0.1 × activation (sum over features) + 20 × information entropy (base e, mean "
        "over classes)"
    ) in lines
    assert any("through the teacher's logits (L1) on" in line for line in lines)
    assert any(line.endswith("trained before the student") for line in lines)
    (section,) = sections(datafree(found))
    ends = {one[0]: one[-1] for one in section.tables()[-1].rows}
    assert ends["information entropy"] == f"{-math.log(4) / 4:.3f}"


@pytest.mark.parametrize(("count", "wanted"), [(2, 2), (20, 2), (30, 3), (200, 20)])
def test_accuracies_are_averaged_over_the_last_tenth(count: int, wanted: int) -> None:
    values = [1 / (k + 1) for k in range(count)]
    found = last_tenth([math.nan, *values, math.nan])
    assert found is not None
    last = values[-wanted:]
    assert found.count == wanted
    assert found.mean == pytest.approx(sum(last) / wanted)
    apart = sum((one - found.mean) ** 2 for one in last)
    assert found.spread == pytest.approx(math.sqrt(apart / (wanted - 1)))


def test_a_single_accuracy_has_no_spread() -> None:
    assert last_tenth([math.nan, 0.5]) is None
    assert last_tenth([]) is None
    assert not any("±" in line for line in lines_of(datafree(details(epochs=(row(1),)))))


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [((5, 5, 5, 5), 1.0), ((0, 9, 0, 9), 0.5), ((0, 7, 0), 0.0), ((0, 0), 1.0), ((3,), 1.0)],
)
def test_the_balance_of_classes_is_their_entropy(counts: tuple[int, ...], wanted: float) -> None:
    assert row(1, classes=counts).balance == pytest.approx(wanted)


def test_teacher_controls_and_student_are_a_table() -> None:
    (section,) = sections(datafree())
    worth, terms = section.tables()
    assert worth.brief
    assert worth.leading
    assert [(one[0], one[1]) for one in worth.rows] == [
        ("teacher resnet34", "95.00 %"), ("student on noise", "55.00 %"),
        ("student on drawn images", "86.00 %"),
    ]  # fmt: skip
    assert section.figures() == {"top1_noise": 0.55}
    assert terms.heads == ("", "weight", "epoch 1", "epoch 30", "at best")
    assert terms.rows[0] == ("one-hot", "1", "1.000", "0.033", "0")
    assert terms.rows[2] == ("information entropy", "5", "-0.300", "-0.590", "-0.602")
    assert terms.rows[-1] == ("same class as the teacher", "–", "50.0 %", "98.3 %", "100 %")
    (alone,) = sections(datafree(details(controls=())))
    assert [one.title for one in alone.tables()] == ["The terms of the losses"]
    assert alone.figures() == {"top1_noise": None}
    assert "student on noise 55.00 %" in text_of(datafree())


def test_a_panel_for_each_term_that_was_logged() -> None:
    axes = drawn(datafree())["synthesis_losses"].axes
    panels = {ax.get_title(loc="left"): ax for ax in axes if ax.get_visible()}
    assert list(panels) == [
        "1 × one-hot", "0.1 × activation", "5 × information entropy", "2 × BatchNorm statistics",
        "generator, all terms weighted", "student", "same class as the teacher",
    ]  # fmt: skip
    course = panels["2 × BatchNorm statistics"].get_lines()[0].get_ydata()
    assert list(course) == pytest.approx([5 / k for k in range(1, EPOCHS + 1)])
    agreement = panels["same class as the teacher"].get_lines()[0].get_ydata()
    assert agreement[-1] == pytest.approx(100 - 50 / EPOCHS)
    level = panels["5 × information entropy"].get_lines()[1].get_ydata()
    assert level[0] == pytest.approx(-math.log10(4))


def test_the_course_of_the_accuracy_and_the_spread_of_its_end() -> None:
    result = datafree()
    (ax,) = drawn(result)["synthesis_accuracy"].axes
    course, teacher, noise = ax.get_lines()
    assert list(course.get_ydata())[-3:] == pytest.approx([80, 90, 85])
    assert result.reference.val_top1 is not None
    assert teacher.get_ydata()[0] == pytest.approx(100 * result.reference.val_top1)
    assert noise.get_ydata()[0] == pytest.approx(54.5)
    spread = 100 * statistics.stdev(TOP1)
    assert texts_of(ax) == [
        "teacher 94.50 %", "on noise 54.50 %", f"last 3 epochs\n85.00 % ± {spread:.2f} points",
    ]  # fmt: skip
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((85 - spread, 85 + spread))


def test_classes_are_set_against_equal_frequency() -> None:
    bars, course = drawn(datafree())["synthesis_balance"].axes
    assert [bar.get_height() for bar in bars.patches] == pytest.approx(
        [100 * one / 64 for one in COUNTS]
    )
    assert bars.get_lines()[0].get_ydata()[0] == 25
    assert [text.get_text() for text in bars.get_xticklabels()] == ["zero", "one", "two", "three"]
    assert course.get_lines()[0].get_ydata()[0] == pytest.approx(row(1).balance)
    assert texts_of(course) == ["entropy of\nclasses 0.85", "spread of\nimages 0.70"]
    many = details(epochs=(row(1, classes=tuple(range(1000))),), classes=("a",) * 1000)
    bars, _ = drawn(datafree(many))["synthesis_balance"].axes
    assert len(bars.patches) == 1000
    assert bars.get_xlabel().endswith("by number")


def test_a_student_of_a_finished_generator_has_its_course_in_the_log(tmp_path: Path) -> None:
    found = details(mode="generator_first", epochs=without_images(details().epochs))
    result = datafree(found)
    assert "synthesis_accuracy" not in drawn(result, tmp_path)
    rows = [f"{k},{2 / k:.4f},{0.01 * k:.4f}" for k in range(1, EPOCHS + 6)]
    (tmp_path / LOGGED).write_text("\n".join(["step,train/loss,val/top1", *rows]) + "\n")
    (ax,) = drawn(result, tmp_path)["synthesis_accuracy"].axes
    heights = list(ax.get_lines()[0].get_ydata())
    assert heights == pytest.approx(list(range(6, EPOCHS + 6)))  # not those of noise before


def test_images_are_shown_by_epoch_and_by_class(tmp_path: Path) -> None:
    result = datafree()
    folder = write_run(tmp_path / "run", result)
    draw_pictures(folder / "figures")
    (section,) = sections(result)
    shown = section.pictures(folder / "figures")
    assert [one.path.stem for one in shown] == [
        "epoch_030", "epoch_001", "epoch_004", "epoch_010",
    ]  # fmt: skip
    assert shown[0].caption == (
        "Generated images after epoch 30, at the end of the training: the teacher sees 4 of 4 "
        "classes in them."
    )
    figure = drawn(result, folder)["synthesis_classes"]
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "zero: 10 images", "one: 20 images", "two: 30 images", "three: 4 images",
    ]  # fmt: skip
    with Image.open(folder / "figures" / "generated" / "class_2.png") as picture:
        wanted = np.asarray(picture.convert("RGB"))
    (image,) = figure.axes[2].get_images()
    assert np.array_equal(np.round(255 * np.asarray(image.get_array())[..., :3]), wanted)
    names = [path.stem for path in draw_figures(result, folder / "figures")]
    assert names == ["accuracy", *NAMES, *(one.path.stem for one in shown)]
    assert write_report(result, folder).read_text().count("<figure>") == 9


def test_the_most_frequent_of_many_classes_are_shown(tmp_path: Path) -> None:
    counts = tuple(k % 30 for k in range(60))
    result = datafree(details(epochs=(row(1, classes=counts),), classes=("a",) * 60))
    draw_pictures(tmp_path / "figures", 1, 60)
    axes = drawn(result, tmp_path)["synthesis_classes"].axes
    assert [ax.get_title(loc="left") for ax in axes] == [
        f"a: {k} images" for k in range(20, 30)
    ] * 2


def test_a_run_without_pictures_or_epochs_is_shown(tmp_path: Path) -> None:
    result = datafree()
    assert list(drawn(result, tmp_path)) == NAMES[:-1]
    (section,) = sections(result)
    assert section.pictures(tmp_path) == []
    bare = datafree(details(epochs=(), controls=(), weights={}))
    assert drawn(bare, tmp_path) == {}
    assert write_report(bare, tmp_path).exists()


def test_without_any_image_nothing_is_said_of_accuracy(tmp_path: Path) -> None:
    from thinet.report.sections.synthesis import Control

    nothing = measurement(None)
    found = details(epochs=without_images(details().epochs), controls=(Control("noise", nothing),))
    result = datafree(found, reference=nothing, model=nothing, steps=())
    assert not any("points" in line for line in lines_of(result))
    assert list(drawn(result, tmp_path)) == ["synthesis_losses", "synthesis_balance"]
    assert "student on noise n/a" in text_of(result)
    assert write_report(result, tmp_path).exists()


@pytest.mark.parametrize(
    "damage",
    [
        {"base": "ten"},
        {"weights": {"one_hot": "1"}},
        {"epochs": [{"epoch": 1}]},
        {"epochs": [[1]]},
        {"controls": [{"name": "noise", "measurement": None}]},
        {"alarms": [1]},
        {"more": 1},
    ],
    ids=str,
)
def test_damaged_details_are_one_sentence(tmp_path: Path, damage: dict[str, Any]) -> None:
    result = replace(datafree(), details={"synthesis": {**to_json(details()), **damage}})
    with pytest.raises(ThinetError) as error:
        write_report(result, tmp_path)
    text = str(error.value)
    assert text.startswith("the details of synthesis in the result of vgg16-digits-datafree")
    assert text.endswith("repeat the run with resume=off.")
    assert "\n" not in text
    (entry,) = gather([write_run(tmp_path / "run", result)])
    assert entry.status == "complete"


def _saved(images: Any, path: Path, columns: int) -> Any:
    with Image.open(save_grid(images, path, columns)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_a_grid_has_each_image_in_its_place(tmp_path: Path) -> None:
    tiles = np.random.default_rng(0).integers(0, 255, (5, 3, 4, 3), dtype=np.uint8)
    pixels = _saved(tiles, tmp_path / "new" / "a.png", 3)
    high, wide = 3 * LARGEST + GAP, 4 * LARGEST + GAP
    assert pixels.shape == (2 * high + GAP, 3 * wide + GAP, 3)
    for place, tile in enumerate(tiles):
        row_, column = divmod(place, 3)
        top, left = GAP + row_ * high, GAP + column * wide
        shown = pixels[top : top + 3 * LARGEST, left : left + 4 * LARGEST]
        assert np.array_equal(shown[::LARGEST, ::LARGEST], tile)
        assert np.array_equal(shown, tile.repeat(LARGEST, 0).repeat(LARGEST, 1))
    assert (pixels[high + GAP :, 2 * wide + GAP :] == PAPER).all()  # a place for a sixth
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    assert _saved(tiles[:2], tmp_path / "b.png", 3).shape[1] == 2 * wide + GAP


def test_large_images_are_reduced(tmp_path: Path) -> None:
    tiles = np.zeros((16, 224, 112, 3), np.uint8)
    tiles[:, :112] = 200
    pixels = _saved(tiles, tmp_path / "a.png", 16)
    assert WIDEST - 16 <= pixels.shape[1] <= WIDEST
    side = (WIDEST - GAP) // 16 - GAP
    assert pixels.shape[0] == 2 * side + 2 * GAP
    assert (pixels[GAP + 1, GAP + 1] == 200).all()
    assert (pixels[-GAP - 2, GAP + 1] == 0).all()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.float32),
        np.zeros((2, 3, 4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8),
    ],
    ids=["none", "float", "channels first", "one"],
)  # fmt: skip
def test_what_is_no_picture_is_refused(tmp_path: Path, images: Any) -> None:
    with pytest.raises(ValueError, match=r"\(N, H, W, 3\) of uint8"):
        save_grid(images, tmp_path / "a.png", 4)
    (tmp_path / "file").write_text("")
    with pytest.raises(ThinetError, match=r"cannot write .*file"):
        save_grid(np.zeros((1, 4, 4, 3), np.uint8), tmp_path / "file" / "a.png", 4)

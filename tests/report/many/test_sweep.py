from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import measurement, pruned, scanned, toy, trained, write_run
from thinet.base.errors import ThinetError
from thinet.base.records import to_json
from thinet.report import compare_report, write_sweep
from thinet.report.many.page import compare_page
from thinet.report.many.runs import Entry, check_protocols, gather
from thinet.report.many.sweep import sweep_figure
from thinet.run.result import read_result

Point = Callable[..., Path]
collect = gather


def _lines(rows: Sequence[Entry]) -> dict[str, tuple[list[float], list[float]]]:
    lines = [x for x in sweep_figure(rows).axes[0].get_lines() if not x.get_label().startswith("_")]
    return {x.get_label(): (list(x.get_xdata()), list(x.get_ydata())) for x in lines}


def _subtitle(rows: Sequence[Entry]) -> str:
    return sweep_figure(rows).texts[1].get_text()


def table(folders: list[Path], out: Path) -> list[dict[str, str]]:
    """What a sweep writes of some runs."""
    path, figure = write_sweep(folders, out)
    assert figure.read_bytes().startswith(b"\x89PNG")
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_table_repeats_the_results_exactly(point: Point, tmp_path: Path) -> None:
    folder = point("a", 0.95123456789, 0.31, ratio=0.3, seed=4)
    result = read_result(folder)

    (row,) = table([folder], tmp_path / "out")

    before, after = result.reference, result.model
    assert after is not None
    assert (row["name"], row["criterion"], row["ratio"], row["seed"]) == ("a", "thinet", "0.3", "4")
    assert (row["status"], row["error"]) == ("complete", "")
    assert float(row["top1_reference"]) == before.top1
    assert float(row["top1"]) == 0.95123456789
    assert float(row["top1_drop"]) == pytest.approx(0.9889 - 0.95123456789)
    assert int(row["flops"]) == after.flops
    assert int(row["flops_reference"]) == before.flops
    assert float(row["flops_reduction"]) == pytest.approx(0.69)
    assert float(row["params_reduction"]) == 1 - after.params / before.params
    assert float(row["size_mb"]) == after.size_mb
    assert float(row["top1_cut"]) == 0.284
    assert float(row["top1_recalibrated"]) == 0.662
    assert float(row["latency_ms"]) == 12.0
    assert float(row["seconds"]) == 754.0


def test_columns_are_the_settings_that_there_are(point: Point, tmp_path: Path) -> None:
    runs = {"train": trained(), "toy": toy(), "scan": scanned()}
    others = [write_run(tmp_path / name, result) for name, result in runs.items()]
    rows = {row["name"]: row for row in table([point("a"), *others], tmp_path / "out")}
    train, binary = rows["vgg16-digits-train"], rows["vgg16-digits-binarize"]
    assert (rows["a"]["schedule"], rows["a"]["quantizer"]) == ("layerwise", "")
    assert (binary["quantizer"], binary["order"], binary["ratio"]) == ("toy", "2", "")
    assert [train[key] for key in ("criterion", "schedule", "ratio", "order")] == [""] * 4
    assert (train["flops_reduction"], train["top1"]) == ("0.0", "0.9889")
    assert (binary["binary_ops"], binary["binary_ops_reduction"]) == ("1900000", "")
    alone = table(others[:1], tmp_path / "alone")
    assert {"criterion", "ratio", "schedule"}.isdisjoint(alone[0])


def test_unfinished_points_are_left_out_and_failed_ones_listed(
    point: Point, failure: Point, tmp_path: Path
) -> None:
    unfinished = tmp_path / "runs" / "b"
    folders = [point("a"), unfinished, failure("c", criterion="apoz", ratio=0.5, error="no, sorry")]
    unfinished.mkdir()

    rows = collect([*folders, tmp_path / "never made"])

    assert [(row.name, row.status) for row in rows] == [("a", "complete"), ("c", "failed")]
    assert (rows[1].value("criterion"), rows[1].value("ratio")) == ("apoz", "0.5")
    assert rows[1].error == "no, sorry"
    assert "2 points, 1 failed" in _subtitle(rows)
    assert list(_lines(rows)) == ["prune"]


def test_a_folder_of_runs_stands_for_its_runs(point: Point, failure: Point, tmp_path: Path) -> None:
    a = point("a")
    failure("b", error="e")

    assert [row.name for row in collect([tmp_path / "runs", a])] == ["a", "b"]


def test_a_repeated_point_that_succeeds_is_no_failure(point: Point) -> None:
    folder = point("a")
    (folder / "failure.json").write_text('{"error": "earlier"}')

    assert [row.status for row in collect([folder])] == ["complete"]


def test_one_damaged_result_does_not_take_the_others_with_it(point: Point, tmp_path: Path) -> None:
    good, bad = point("a"), point("b")
    (bad / "result.json").write_text("{")

    rows = collect([good, bad])

    assert [row.status for row in rows] == ["complete", "failed"]
    assert "result.json" in rows[1].error
    write_sweep([good, bad], tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [
        {"reference": {"flops": 0, "params": 1}},
        {"reference": {**to_json(measurement()), "flops": 0, "params": 0, "size_mb": 0.0}},
        {"reference": {**to_json(measurement()), "flops": "many"}},
        {"model": {**to_json(measurement()), "size_mb": float("nan")}},
        {"model": {**to_json(measurement()), "flops": 10**400}},
        {"model": {**to_json(measurement()), "top1": float("inf"), "top5": float("nan")}},
        {"model": []},
        {"settings": {"criterion": ["a", {}], "ratio": [[]]}, "sizes": ["absent", "ratio"]},
        {"settings": {"seed": 1, "name": 2, "top1": "x", "": None}},
        {"run": {"name": 1}},
        {"details": {"pruning": {"layers": {"a": 1}}, "sensitivity": 3}},
        {"details": {"sensitivity": {"suggestion": {"a": "x"}}}, "protocol": {"x": [7]}},
        {"config": [1], "environment": "e"},
        {"images": {"test": 3}},
        {"steps": [{"figures": {"top1": "x"}}]},
    ],
)
def test_no_result_however_strange_takes_the_page_of_the_others(
    change: dict[str, Any], point: Point, tmp_path: Path
) -> None:
    good = point("good", images={})
    bad = write_run(tmp_path / "runs" / "bad", pruned(2, images={}))
    result = json.loads((bad / "result.json").read_text())
    (bad / "result.json").write_text(json.dumps({**result, **change}))

    page = compare_report([good, bad], tmp_path / "out")

    rows = collect([good, bad])
    assert (rows[0].name, rows[0].status) == ("good", "complete")
    assert page.read_text().count("<tr data-run=") == 2


@pytest.mark.parametrize("content", ["[]", "3", "{", '{"name": {}, "ratio": [[]], "seed": {}}'])
def test_no_failure_however_strange_does_either(content: str, point: Point, tmp_path: Path) -> None:
    bad = tmp_path / "runs" / "bad"
    bad.mkdir(parents=True)
    (bad / "failure.json").write_text(content)
    page = compare_report([point("good"), bad], tmp_path / "out")
    assert page.read_text().count("<tr data-run=") == 2


def test_only_failures_still_make_a_table_and_a_figure(failure: Point, tmp_path: Path) -> None:
    (row,) = table([failure("a", error="e")], tmp_path / "out")

    assert (row["status"], row["error"]) == ("failed", "e")


def test_finished_points_without_accuracy_are_told_from_unfinished_ones(
    failure: Point, tmp_path: Path
) -> None:
    known = pruned(2, name="a")
    blank = {"top1": None, "top5": None, "val_top1": None, "val_top5": None}
    assert known.model is not None
    result = replace(
        known, reference=replace(known.reference, **blank), model=replace(known.model, **blank)
    )
    unseen = write_run(tmp_path / "runs" / "a", result)
    failed = failure("b", error="e")

    def said(*folders: Path) -> list[str]:
        return [text.get_text() for text in sweep_figure(collect(folders)).axes[0].texts]

    assert said(unseen, failed) == ["no accuracy of a finished point is known"]
    assert said(failed) == ["no finished point yet"]
    (row,) = table([unseen], tmp_path / "out")
    assert (row["status"], row["top1"], row["top1_drop"]) == ("complete", "", "")


def test_nothing_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ThinetError, match="outputs/"):
        collect([tmp_path])


def test_one_line_per_criterion_in_order_of_flops(point: Point) -> None:
    rows = collect(
        [
            point("a", 0.90, 0.2, criterion="thinet", ratio=0.3),
            point("b", 0.96, 0.6, criterion="thinet", ratio=0.7),
            point("c", 0.80, 0.2, criterion="random", ratio=0.3),
        ]
    )
    lines = _lines(rows)

    assert list(lines) == ["thinet", "random"]
    assert lines["thinet"][0] == pytest.approx([40, 80])
    assert lines["thinet"][1] == pytest.approx([96, 90])
    assert lines["random"] == (pytest.approx([80]), pytest.approx([80]))
    labels = [text.get_text() for text in sweep_figure(rows).axes[0].texts]
    assert labels == ["baseline 98.89 %", "thinet", "random"]


def test_whatever_else_varies_splits_the_lines(point: Point) -> None:
    rows = collect(
        [
            point("a", reconstruction="scale"),
            point("b", reconstruction="refit"),
            point("c", reconstruction="refit", schedule="oneshot"),
        ]
    )
    expected = ["scale, layerwise", "refit, layerwise", "refit, oneshot"]
    assert list(_lines(rows)) == expected


def test_seeds_become_a_mean_with_a_band_and_the_figure_says_so(point: Point) -> None:
    accuracies = (0.90, 0.93, 0.96)
    rows = collect(
        [
            point(
                f"{ratio}-{seed}",
                top1 - (0.01 if ratio == 0.3 else 0),
                ratio,
                ratio=ratio,
                seed=seed,
            )
            for ratio in (0.3, 0.7)
            for seed, top1 in enumerate(accuracies)
        ]
    )
    figure = sweep_figure(rows)

    assert _lines(rows)["prune"][1] == pytest.approx([93, 92])
    assert "mean of 3 seeds, band from lowest to highest" in _subtitle(rows)
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert {round(y, 6) for y in band[:, 1]} == {90, 96, 89, 95}

    assert "mean of up to 3 seeds" in _subtitle(rows[:-1])


def test_every_model_has_its_own_reference(point: Point) -> None:
    rows = collect([point("a"), point("b", network="resnet56", reference=measurement(0.832))])
    axes = sweep_figure(rows).axes[0]

    texts = [text.get_text() for text in axes.texts]
    assert texts[:2] == ["baseline vgg16 98.89 %", "baseline resnet56 83.20 %"]
    levels = [x.get_ydata()[0] for x in axes.get_lines() if x.get_label().startswith("_")]
    assert levels == pytest.approx([98.89, 83.2])


def test_every_data_set_has_a_panel(point: Point) -> None:
    rows = collect([point("a"), point("b", top1=0.5, dataset="cats"), point("c", dataset="cats")])
    panels = {ax.get_title(loc="left"): ax for ax in sweep_figure(rows).axes}
    assert list(panels) == ["digits", "cats"]
    marks = [len(ax.get_lines()[-1].get_xdata()) for ax in panels.values()]
    assert marks == [1, 1]


def test_a_ratio_per_layer_and_runs_without_a_model(point: Point, tmp_path: Path) -> None:
    others = [write_run(tmp_path / str(k), one) for k, one in enumerate((trained(), scanned()))]
    rows = collect([point("a", ratio={"features.*": 0.5}), *others])

    assert [row.value("ratio") for row in rows] == ["{features.*:0.5}", None, None]
    lines = _lines(rows)
    assert list(lines) == ["prune", "train", "sensitivity"]
    assert lines["train"] == ([0.0], [pytest.approx(98.89)])


def test_the_picture_is_of_the_cost_that_differs(tmp_path: Path) -> None:
    before = measurement(0.9)
    after = measurement(0.8, bits=before.bits // 8)
    folder = write_run(tmp_path / "a", toy(reference=before, model=after))
    figure = sweep_figure(gather([folder]))
    assert figure.axes[0].get_xlabel() == "bits removed"
    assert figure.texts[0].get_text() == "Accuracy against bits removed"


def test_writing_again_replaces_both_files_and_leaves_nothing_else(
    point: Point, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = point("a")
    write_sweep([first], out)
    write_sweep([first, point("b", ratio=0.7)], out)

    assert sorted(path.name for path in out.iterdir()) == ["sweep.csv", "sweep.png"]
    assert len((out / "sweep.csv").read_text().splitlines()) == 3


def test_two_protocols_are_not_compared(point: Point, tmp_path: Path) -> None:
    """The paper's 68.34 and 71.50 for one VGG-16 are such a pair."""
    folders = [
        point("a", protocol={"resize": "fixed"}),
        point("b", protocol={"resize": "keep"}),
        point("other", protocol={}),  # of a data set without one
    ]
    with pytest.raises(ThinetError, match=r"a was tested with dataset.resize=fixed, b with"):
        write_sweep(folders, tmp_path / "out")
    write_sweep(folders[1:], tmp_path / "out")
    other = point("c", protocol={"resize": "fixed"}, dataset="another")
    write_sweep([folders[1], other], tmp_path / "out")
    with pytest.raises(ThinetError, match="cannot be compared"):
        check_protocols([("d", "a", "fixed"), ("d", "b", None), ("d", "c", "keep")])


def test_different_images_under_one_name_are_different_data_sets(
    point: Point, failure: Point, tmp_path: Path
) -> None:
    cats, dogs = ({"train": f"40 images, {one}", "test": f"9 images, {one}"} for one in "ab")
    same = [point(f"cats{n}", 0.9, 0.5, dataset="folder", seed=n, images=cats) for n in range(2)]
    rows = collect([*same, failure("broken", dataset="folder")])
    assert [row.names.get("dataset") for row in rows] == ["folder"] * 3
    assert rows[0].images == rows[1].images
    assert rows[2].images is None

    rows = collect([*same, point("dogs", 0.5, 0.5, dataset="folder", seed=2, images=dogs)])
    names = [row.names.get("dataset") for row in rows]
    assert names[0] == names[1] == f"folder {rows[0].images}"
    assert names[2] == f"folder {rows[2].images}" != names[0]
    panels = {ax.get_title(loc="left"): ax.get_lines()[-1] for ax in sweep_figure(rows).axes}
    heights = {name: list(line.get_ydata()) for name, line in panels.items()}
    assert heights == {names[0]: [90.0], names[2]: [50.0]}  # no mean over both


def test_runs_on_other_images_may_be_resized_otherwise(point: Point) -> None:
    for images, fine in (("a", False), ("b", True)):
        folders = [
            point(f"1{images}", images={"test": "a"}, protocol={"resize": "keep"}),
            point(f"2{images}", images={"test": images}, protocol={"resize": "fixed"}),
        ]  # fmt: skip
        if fine:
            sweep_figure(collect(folders))
        else:
            with pytest.raises(ThinetError, match="two evaluation protocols"):
                sweep_figure(collect(folders))


def test_a_page_of_many_runs_keeps_them_apart(point: Point, tmp_path: Path) -> None:
    folders = [
        point(f"{name}{n}", accuracy, 0.5, dataset="folder", seed=n, images={"test": name})
        for name, accuracy in (("cats", 0.9), ("dogs", 0.5))
        for n in range(2)
    ]
    entries = gather(folders)
    page = compare_page(entries, tmp_path)
    assert len(page.datasets) == 2
    assert ("images.test", [("cats", "#1–2"), ("dogs", "#3–4")]) in page.differences

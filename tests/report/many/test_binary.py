"""Pruned, distilled and binary networks on one page."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.binarized import binarized, full_precision
from tests.report.conftest import distilled, pruned, write_run
from thinet.cli import main
from thinet.report import compare_report
from thinet.report.axes import AXES, BINARY, BITS, axes
from thinet.report.figures import run_plots
from thinet.report.many.points import axes_of, chart, levels, points
from thinet.report.many.runs import Entry, gather
from thinet.report.many.table import figure_columns
from thinet.report.table import compare, headline
from thinet.run.result import Result

FULL = full_precision()


def smaller(share: float, **changes: Any) -> Any:
    costs = {name: int(share * getattr(FULL, name)) for name in
             ("flops", "macs", "params", "weights", "bits")}  # fmt: skip
    return replace(FULL, **costs, size_mb=share * FULL.size_mb, **changes)


def everything() -> list[Result]:
    of = {"dataset": "cifar10", "network": "vgg_binary", "reference": FULL}
    return [
        *(binarized(order, top1) for order, top1 in ((1, 0.892), (2, 0.919), (3, 0.921))),
        pruned(2, model=smaller(0.5, top1=0.925, latency_ms=5.0), name="cut", **of),
        distilled(model=smaller(0.1, top1=0.91, latency_ms=1.2), name="taught",
                  **{**of, "network": "vgg_small"}),
    ]  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [write_run(tmp_path / "runs" / one.run.name, one) for one in everything()]


@pytest.fixture
def entries(folders: list[Path]) -> list[Entry]:
    return gather(folders)


def test_bits_are_the_axis_that_is_fair_to_all(entries: list[Entry]) -> None:
    assert [axis.key for axis in axes_of(entries)] == [
        "bits", "binary_ops", "flops", "params", "latency_ms",
    ]  # fmt: skip
    assert len(points(entries, BITS)) == 5
    cut = [one for one in entries if one.names["method"] == "prune"]
    assert [axis.key for axis in axes_of(cut)] == ["flops", "latency_ms"]  # as ever


def test_orders_differ_in_their_operations(entries: list[Entry]) -> None:
    first, *others = axes_of(entries[:3])
    assert first is BINARY
    assert [axis.key for axis in others] == ["flops", "bits", "latency_ms"]
    costs = [one.cost for one in points(entries[:3], BINARY)]
    assert costs == pytest.approx([costs[0], 2 * costs[0], 3 * costs[0]])


def test_none_of_an_operation_is_no_merit(entries: list[Entry]) -> None:
    """A network without binary operations is no point among those, and beats none of them."""
    found = points(entries, BINARY)
    assert [one.runs for one in found] == [(1,), (2,), (3,)]
    assert all(one.front for one in found)
    (column,) = [one for one in figure_columns(entries) if one.head == "binary operations"]
    assert [column.value(one, one.result) for one in entries if one.result][3:] == [0, 0]


def test_flops_of_networks_with_binary_operations_say_what_is_not_in_them(
    entries: list[Entry],
) -> None:
    (flops,) = [axis for axis in axes_of(entries) if axis.key == "flops"]
    assert chart(entries, flops).x.label == "FLOPs of one image, binary operations apart"
    of_one = [replace(one, names={**one.names, "model": "a"}) for one in entries[:3]]
    assert chart(of_one, flops).x.label == "FLOPs removed, binary operations apart"
    (plain, *_) = axes_of(entries[3:4])
    assert chart(entries[3:4], plain).x.label == "FLOPs removed"


def test_levels_of_one_height_are_one(entries: list[Entry]) -> None:
    assert [one.text for one in levels(entries[:4])] == ["full precision and baseline 93.12 %"]
    own, teacher = levels([*entries[:4], _taught_by(entries[4], 0.95)])
    assert own.text == "full precision and baseline vgg_binary 93.12 %"
    assert teacher.text == "teacher resnet110 95.00 %"
    (level,) = levels(entries)
    assert level.text == "full precision and baseline vgg_binary, teacher resnet110 93.12 %"


def _taught_by(one: Entry, top1: float) -> Entry:
    assert one.result is not None
    return replace(
        one, result=replace(one.result, reference=replace(one.result.reference, top1=top1))
    )


def test_the_headline_tells_all_of_the_saving() -> None:
    assert headline(binarized()) == (
        "93.12 % top-1 → 91.87 % top-1 at 29.25x fewer bits of parameters, 134.20x fewer FLOPs "
        "and 1.21 B binary operations"
    )
    result = binarized()
    assert result.model is not None
    # By chance as many of both are gone.
    by_chance = replace(result.model, flops=result.reference.flops // 29, latency_ms=None)
    assert headline(replace(result, model=by_chance)).endswith(
        "at 29.25x fewer bits of parameters, 29.00x fewer FLOPs and 1.21 B binary operations"
    )
    same = replace(result.reference, top1=0.9, binary_ops=5)
    assert headline(replace(result, model=same)).endswith("90.00 % top-1 at 5 binary operations")
    lines = {line.label: line for line in compare(result)}
    assert lines["binary operations"].change == "added"
    assert (lines["size"].reference, lines["size"].model) == ("17.48 MB", "612.04 KB")


def test_the_page_shows_them_all(folders: list[Path], tmp_path: Path) -> None:
    page = compare_report(folders, tmp_path / "out").read_text()
    titles = [
        "Accuracy against bits of parameters left", "Accuracy against binary operations left",
        "Accuracy against FLOPs left",
    ]  # fmt: skip
    places = [page.index(f"<h3>{title}</h3>") for title in titles]
    assert places == sorted(places)
    assert "bits a weight <small>#1–3</small>" in page
    rows = list(csv.DictReader((tmp_path / "out" / "sweep.csv").open()))
    assert [row["quantizer"] for row in rows[:3]] == ["xnor", "horq2", "horq3"]
    assert [int(float(row["binary_ops"])) > 0 for row in rows] == [True] * 3 + [False] * 2
    assert all(float(row["bits_reduction"]) > 0.4 for row in rows)


def test_the_list_tells_the_bits_that_are_left(
    folders: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    for folder in folders:
        (folder / "state.json").write_text('{"status": "complete"}')
    silent = binarized(name="silent")
    assert silent.model is not None
    silent = replace(silent, model=replace(silent.model, bits=0))
    other = write_run(folders[0].parent / "silent", silent)
    (other / "state.json").write_text('{"status": "complete"}')
    assert main(["list", str(folders[0].parent)]) == 0
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert shown["vgg_binary-cifar10-binarize-horq2"].endswith(" 3.42 % bits of parameters")
    assert shown["silent"].endswith(" 0.75 % FLOPs, without binary operations")
    assert shown["cut"].endswith(" 50.00 % FLOPs")


def test_bits_that_leave_the_parameters_have_a_line_over_the_steps() -> None:
    result = binarized()
    before = result.reference
    steps = tuple(
        replace(step, figures={**step.figures, "flops": before.flops, "params": before.params,
                               "bits": bits, "binary_ops": operations})
        for step, bits, operations in zip(
            result.steps, (before.bits, result.final.bits), (0, 1_200_000), strict=True)
    )  # fmt: skip
    (plot,) = [one for one in run_plots(replace(result, steps=steps), []) if one.name == "cost"]
    lines = {line.get_label(): list(line.get_ydata()) for line in plot.draw().axes[0].get_lines()}
    assert lines == {"bits of parameters": pytest.approx([100, 100, 3.42], abs=0.01)}

    fewer = tuple(
        replace(step, figures={**step.figures, "flops": before.flops // 2}) for step in steps
    )
    (plot,) = [one for one in run_plots(replace(result, steps=fewer), []) if one.name == "cost"]
    ax = plot.draw().axes[0]
    assert any("and 1.20 M binary operations" in text.get_text() for text in ax.texts)
    assert [line.get_label() for line in ax.get_lines()] == ["FLOPs", "bits of parameters"]


def test_bits_that_follow_the_parameters_have_none() -> None:
    result = pruned(3)
    steps = tuple(
        replace(step, figures={**step.figures, "bits": 32 * int(step.figures["params"] or 0)})
        for step in result.steps
    )
    (plot,) = [one for one in run_plots(replace(result, steps=steps), []) if one.name == "cost"]
    labels = [line.get_label() for line in plot.draw().axes[0].get_lines()]
    assert labels == ["FLOPs", "parameters"]


def test_axes_of_the_same_keys_are_those_of_the_table() -> None:
    (found,) = [axis for axis in axes(everything()) if axis.key == "flops"]
    assert found != AXES[0]
    assert replace(found, apart="") == AXES[0]

"""What is said of binary networks: on the page of a run, on the terminal, in figures."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex
from rich.console import Console

from tests.report.binarized import EPOCHS, FIRST, LAST, binarized, details, layers, log
from tests.report.conftest import write_run
from thinet.base.errors import ThinetError
from thinet.base.records import to_json
from thinet.report import draw_figures, print_result, style, write_report
from thinet.report.courses import LOGGED, last_epochs
from thinet.report.figures import run_plots
from thinet.report.many.runs import gather
from thinet.report.sections import sections
from thinet.report.sections.quantization import CONDITION, LayerBits
from thinet.report.sections.quantization.details import parts
from thinet.run.result import Result


def text_of(result: Result) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    print_result(result, console)
    return " ".join(console.export_text().split())


def lines_of(result: Result) -> list[str]:
    (section,) = sections(result)
    return list(section.lines())


def drawn(result: Result, folder: Path | None = None) -> dict[str, Any]:
    plots = run_plots(result, sections(result), folder)
    return {one.name: one.draw() for one in plots if one.name.startswith("quantization")}


def test_what_became_binary_and_what_did_not_with_the_reasons() -> None:
    first, second, *_ = lines_of(binarized())
    assert first == (
        "horq2: weights of 1 bit, activations of 2 bits, sample scales, in 5 of 7 layers with "
        f"99.8 % of the weights; in floating point features.0 ({FIRST}); classifier ({LAST})"
    )
    assert second == "signs need both signs: 5 ReLUs taken from in front of them"
    found = details(1, norms_added=1, relus_removed=0, layers=layers(1)[1:-1])
    first, second, *_ = lines_of(binarized(1, found=found))
    assert first == (
        "xnor: weights of 1 bit, activations of 1 bit, sample scales, in 5 of 5 layers with "
        "100.0 % of the weights"
    )
    assert second == "signs need both signs: 1 BatchNorm added in front of binary layers"
    assert "signs need" not in " ".join(
        lines_of(binarized(found=details(relus_removed=0)))
    )  # nothing was moved


def test_many_layers_of_one_reason_are_counted() -> None:
    depthwise = tuple(replace(layers(2)[0], layer=f"dw.{k}", reason="depthwise") for k in range(4))
    found = details(layers=(*depthwise, *layers(2)))
    assert (
        "in floating point 4 layers (depthwise); features.0 ("
        in lines_of(binarized(found=found))[0]
    )


def test_the_factor_of_the_formula_is_never_told_without_its_condition(tmp_path: Path) -> None:
    result = binarized()
    folder = log(write_run(tmp_path / "run", result))
    page, text = write_report(result, folder).read_text(), text_of(result)
    for found in (page, text):
        assert found.count("29.9x") == found.count(f"binary layers, by {CONDITION}") + found.count(
            f"binary layers alone, by {CONDITION}"
        )
        assert "29.9x" in found
    assert "no SIMD" in CONDITION
    label = drawn(result)["quantization_speeds"].axes[0].get_xlabel()
    assert "29.9x" in label
    assert "no SIMD" in label


def test_bytes_on_disk_and_what_openvino_computes() -> None:
    lines = lines_of(binarized())
    assert "file of weights 17.51 MB → 647.56 KB: 27.69x smaller" in lines
    assert lines[-1].endswith("outputs within 3.2e-06 of the largest")
    exact = lines_of(binarized(found=details(deployed_difference=0.0)))
    assert exact[-1].endswith("outputs within 0.0e+00 of the largest")
    reason = "openvino is not installed: type pip install 'thinet[openvino]'."
    lines = lines_of(binarized(found=details(deployed_difference=None, why_not_deployed=reason)))
    assert lines[-1].endswith(f"no faster: {reason[:-1]}")


def test_measured_speeds_are_set_against_both_baselines() -> None:
    (section,) = sections(binarized())
    table = section.tables()[0]
    assert table.brief
    assert table.leading
    assert [row[:2] for row in table.rows][3:5] == [
        ("OpenVINO, 1 bit", "1"), ("PyTorch, full precision", "2"),
    ]  # fmt: skip
    assert table.rows[3][2:] == ("1.60 ms", "5.88x faster", "3.19x faster")
    assert table.rows[0][3:] == ("–", "1.84x slower")
    assert table.rows[7][2:] == ("1.13 ms", "4.77x faster", "2.42x faster")  # of two threads
    assert "1.60 ms 5.88x faster 3.19x faster" in text_of(binarized())
    alone = details(speeds=details().speeds[3:4])
    (section,) = sections(binarized(found=alone))
    assert section.tables()[0].rows == (("OpenVINO, 1 bit", "1", "1.60 ms"),)
    (section,) = sections(binarized(found=details(speeds=())))
    assert [one.title for one in section.tables()] == ["Where the bits are", "Layers"]
    assert "quantization_speeds" not in drawn(binarized(found=details(speeds=())))


def test_the_bits_of_the_parts_are_those_of_the_network() -> None:
    result = binarized()
    found = {one.name: one for one in parts(details(), result.final.bits, result.reference.bits)}
    assert sum(one.bits for one in found.values()) == result.final.bits
    assert sum(one.full for one in found.values()) == result.reference.bits
    own = found["weights of binary layers"]
    assert own.full == 32 * own.bits == 32 * sum(one.weights for one in layers(2)[1:-1])
    assert found["factors and BatchNorms of binary layers"].bits == 32 * (128 + 2 * 256 + 2 * 512)
    assert found["layers in floating point"].full == 32 * (27 * 128 + 5130)
    unknown = parts(details(), 0, 0)
    assert all(one.bits >= 0 and one.full >= 0 for one in unknown)

    (section,) = sections(result)
    where, every = section.tables()[1:]
    assert where.rows[0] == ("weights of binary layers", "17.44 MB", "558.00 KB", "91.2 %")
    assert where.rows[-1] == ("all parameters", "17.48 MB", "612.04 KB", "100.0 %")
    assert every.rows[0][-3:] == ("–", "7.08 M", f"float: {FIRST}")
    assert every.rows[1] == (
        "features.3", "conv 3x3", "147.46 K", "18.50 KB", "301.99 M", "786.43 K", "1 × 2 bits",
    )  # fmt: skip


def test_bars_of_bits_and_operations() -> None:
    result = binarized(3)
    figure = drawn(result)["quantization_sizes"]
    sizes, enlarged, operations = figure.axes
    colors: dict[int, dict[str, float]] = {0: {}, 1: {}}
    for bar in sizes.patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        colors[row][to_hex(bar.get_facecolor())] = bar.get_width()
    assert sum(colors[0].values()) == pytest.approx(result.reference.bits / 8)
    assert sum(colors[1].values()) == pytest.approx(result.final.bits / 8)
    blue, red = (one.lower() for one in (style.BLUE, style.VERMILLION))
    assert colors[0][blue] == pytest.approx(32 * colors[1][blue])
    assert sum(bar.get_width() for bar in enlarged.patches) == pytest.approx(result.final.bits / 8)
    assert [bar.get_width() for bar in operations.patches] == pytest.approx(
        [result.reference.macs, result.final.binary_ops, result.final.macs]
    )
    assert [to_hex(bar.get_facecolor()) for bar in operations.patches] == [red, blue, red]
    assert "3 passes" in operations.get_title(loc="left")
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert {"17.48 MB", "612.04 KB", "607.52 M"} <= set(texts)


@pytest.mark.parametrize("before", [0, 3])
def test_the_course_of_the_training_is_that_of_the_steps(tmp_path: Path, before: int) -> None:
    """Whether or not the network in full precision was trained in the same run."""
    result = binarized()
    loss, top1 = drawn(result, log(tmp_path, before))["quantization_training"].axes
    heights = [line.get_ydata() for line in (loss.get_lines()[0], top1.get_lines()[0])]
    assert list(heights[0]) == pytest.approx([2 / k for k in range(1, 11)], abs=1e-4)
    assert list(heights[1]) == pytest.approx([92 - 30 / k for k in range(1, 11)], abs=1e-2)
    assert [line.get_xdata()[0] for line in loss.get_lines()[1:]] == [EPOCHS[0] + 0.5]
    assert loss.get_xlabel() == "epoch (activations, then weights)"
    assert "full precision 92.62 %" in [text.get_text() for text in top1.texts]


@pytest.mark.parametrize(
    "content", [None, "", "step,val/top1\n1,0.5\n", "step,train/loss\n1,2.0\n"]
)
def test_without_its_log_a_training_has_no_figure(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / LOGGED).write_text(content)
    assert "quantization_training" not in drawn(binarized(), tmp_path)
    assert last_epochs(tmp_path, 0) == {}


def test_all_figures_are_drawn_and_shown(tmp_path: Path) -> None:
    result = binarized()
    folder = log(write_run(tmp_path / "run", result))
    names = [path.stem for path in draw_figures(result, folder / "figures")]
    assert names == [
        "accuracy", "quantization_sizes", "quantization_speeds", "quantization_training",
    ]  # fmt: skip
    page = write_report(result, folder).read_text()
    assert page.count("<figure>") == 4
    assert "K for each weight and position, and not among the FLOPs" in page


def test_bits_a_weight_are_a_row_of_the_map() -> None:
    (section,) = sections(binarized(2))
    (other,) = sections(binarized(3))
    found = section.widths()
    assert found == other.widths()  # so that all orders share a row
    assert found is not None
    assert [one.text for one in found.layers.values()] == ["32", "1", "1", "1", "1", "1", "32"]
    assert found.layers["features.0"].title == f"in floating point: {FIRST}"


def test_a_network_without_layers_or_counts_is_shown(tmp_path: Path) -> None:
    bare = details(layers=(), speeds=(), bytes_full=0, bytes_packed=0)
    assert "in 0 of 0 layers with 0.0 %" in text_of(binarized(top1=None, found=bare))
    plain = binarized()
    assert plain.model is not None
    silent = replace(plain, model=replace(plain.model, bits=0))
    assert write_report(silent, tmp_path).exists()


@pytest.mark.parametrize(
    "damage",
    [
        {"order": "two"},
        {"order": None},
        {"layers": [{"layer": "a"}]},
        {"layers": [[1]]},
        {"speeds": [{"name": "a", "latency_ms": "fast", "threads": 1}]},
        {"bytes_packed": 1.5},
        {"more": 1},
    ],
    ids=str,
)
def test_damaged_details_are_one_sentence(tmp_path: Path, damage: dict[str, Any]) -> None:
    result = binarized()
    found = {"quantization": {**to_json(details()), **damage}}
    result = replace(result, details=found)
    with pytest.raises(ThinetError) as error:
        write_report(result, tmp_path)
    text = str(error.value)
    assert text.startswith("the details of quantization in the result of vgg_binary-cifar10-")
    assert text.endswith("repeat the run with resume=off.")
    assert "\n" not in text
    (entry,) = gather([write_run(tmp_path / "run", result)])
    assert (entry.status, entry.widths) == ("complete", ())


def test_a_layer_is_binary_where_nothing_speaks_against_it() -> None:
    assert LayerBits("a", "linear", "", 8, 40, 8, 0).binary
    assert not LayerBits("a", "linear", "too narrow", 8, 256, 0, 16).binary

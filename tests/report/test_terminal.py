from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from thinet.report.terminal import NAMED, print_plan, print_result

Make = Callable[..., dict[str, Any]]
TOTALS = {
    "flops_before": 30_940_528_640,
    "flops_after": 9_580_000_000,
    "macs_before": 15_470_264_320,
    "macs_after": 4_790_000_000,
    "params_before": 138_357_544,
    "params_after": 131_450_000,
    "weights_before": 138_344_128,
    "weights_after": 131_440_000,
}


def _printed(show: Callable[[Console], None], width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def _plan(rows: list[dict[str, Any]], width: int = 120) -> str:
    return _printed(lambda console: print_plan(rows, TOTALS, console), width)


def test_result_table(make_result: Make) -> None:
    result = make_result()
    result["slim"]["flops"] = 9_340_000_000
    lines = [" ".join(x.split()) for x in _printed(lambda c: print_result(result, c)).splitlines()]

    assert "top-1 98.89 % 97.69 % -1.20 points" in lines
    assert "FLOPs 30.94 B 9.34 B 3.31x fewer" in lines
    assert "latency 21.00 ms 12.00 ms 1.75x faster" in lines
    assert (
        "before fine-tuning, without BatchNorm recalibration: top-1 28.40 %, top-5 71.00 %" in lines
    )
    assert "before fine-tuning, with BatchNorm recalibration: top-1 66.20 %, top-5 94.30 %" in lines


def test_result_without_recalibration_or_pruning(make_result: Make) -> None:
    plain = _printed(lambda console: print_result(make_result(recalibrated=False), console))
    assert "without BatchNorm recalibration" in plain
    assert "with BatchNorm recalibration" not in plain

    trained = make_result(0, slim=None, before_finetuning=None)
    text = _printed(lambda console: print_result(trained, console))
    assert "98.89 % top-1, 30.94 B FLOPs" in text
    assert "slim" not in text


def test_plan_prints_the_published_figures_to_the_digit(make_result: Make) -> None:
    lines = [" ".join(line.split()) for line in _plan(make_result()["layers"]).splitlines()]

    assert "FLOPs 30.94 B 9.58 B 3.23x fewer" in lines
    assert "parameters 138.34 M (weights) 131.44 M (weights) 1.05x fewer" in lines
    assert "138.36 M (with biases) 131.45 M (with biases) 1.05x fewer" in lines


@pytest.mark.parametrize("width", [80, 120])
def test_plan_has_a_line_for_every_layer(make_result: Make, width: int) -> None:
    layers = make_result(54)["layers"]
    lines = _plan(layers, width).splitlines()

    for layer in layers:
        (line,) = [x for x in lines if x.split()[:1] == [layer["layer"]]]
        assert f"keeps {layer['filters_after']} of {layer['filters_before']} " in line


def test_a_long_name_is_folded_and_not_cut() -> None:
    name = "a.very.long.module.path." * 5
    row = {
        "layer": name, "filters_before": 64, "filters_after": 19, "ratio": 0.3, "flops_before": 1,
        "flops_after": 1, "params_before": 1, "params_after": 1,
    }  # fmt: skip
    text = _plan([row], width=80)

    assert "…" not in text
    assert "".join(line.split(" ")[0] for line in text.splitlines()).find(name) >= 0


def test_layers_left_whole_are_summarised_by_reason() -> None:
    added = [
        {"layer": f"layer{i}.conv3", "reason": "its output is added"} for i in range(NAMED + 2)
    ]
    text = _plan([*added, {"layer": "[bold]fc", "reason": "a [linear] layer"}])

    named = ", ".join(f"layer{i}.conv3" for i in range(NAMED))
    assert f"left whole: {named} and 2 more: its output is added\n" in text
    assert "left whole: [bold]fc: a [linear] layer\n" in text  # no markup is read from names

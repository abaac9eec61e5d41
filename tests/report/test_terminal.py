from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from tests.report.conftest import measurement, pruned, toy, trained
from thinet.report import PlanRow, print_costs, print_plan, print_result
from thinet.report.sections import sections
from thinet.report.sections.pruning import Pruning
from thinet.report.sections.pruning.plan import NAMED

BEFORE = measurement(None, 30_940_528_640, 138_357_544, weights=138_344_128)
AFTER = measurement(None, 9_580_000_000, 131_450_000, weights=131_440_000)
ROW = PlanRow("conv", 64, 19, 0.3, 1, 1, 1, 1)


def _printed(show: Callable[[Console], None], width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def _plan(rows: Sequence[PlanRow], width: int = 120, whole: dict[str, str] | None = None) -> str:
    return _printed(lambda console: print_plan(rows, BEFORE, AFTER, whole, console), width)


def _rows(layers: int) -> list[PlanRow]:
    (section,) = sections(pruned(layers))
    assert isinstance(section, Pruning)
    return [
        PlanRow(**{key: getattr(cut, key) for key in PlanRow.__dataclass_fields__})
        for cut in section.found.layers
    ]


def test_result_table() -> None:
    result = pruned(share=9_340_000_000 / 30_940_000_000)
    lines = [" ".join(x.split()) for x in _printed(lambda c: print_result(result, c)).splitlines()]

    assert "baseline model change" in lines
    assert "top-1 98.89 % 97.69 % -1.20 points" in lines
    assert "FLOPs 30.94 B 9.34 B 3.31x fewer" in lines
    assert "latency 21.00 ms 12.00 ms 1.75x faster" in lines
    assert (
        "before fine-tuning, without BatchNorm recalibration: top-1 28.40 %, top-5 71.00 %" in lines
    )
    assert "before fine-tuning, with BatchNorm recalibration: top-1 66.20 %, top-5 94.30 %" in lines


def test_result_without_recalibration_or_pruning() -> None:
    plain = _printed(lambda console: print_result(pruned(recalibrated=False), console))
    assert "without BatchNorm recalibration" in plain
    assert "with BatchNorm recalibration" not in plain

    text = _printed(lambda c: print_result(trained(unreadable_images=("a", "b")), c))
    assert "98.89 % top-1, 30.94 B FLOPs" in text
    assert "2 images were left out, being unreadable" in text
    assert "peak memory of the steps: 512 MB at most (process)" in text
    for word in ("slim", "model", "thinet", "ratio", "schedule", "n/a", "pruning"):
        assert word not in text


def test_a_family_without_a_section_is_shown() -> None:
    lines = [" ".join(x.split()) for x in _printed(lambda c: print_result(toy(), c)).splitlines()]
    assert "full precision model change" in lines
    assert "bits of parameters 1.60 M 65.50 K 24.43x fewer" in lines


def test_nothing_is_read_as_markup() -> None:
    result = pruned(1, network="[bold]vgg", criterion="[red]x", reference_is="[/]")
    text = _printed(lambda console: print_result(result, console))
    for word in ("[bold]vgg", "[red]x", "[/]"):
        assert word in text


def test_costs_alone() -> None:
    lines = [" ".join(x.split()) for x in _printed(lambda c: print_costs(BEFORE, c)).splitlines()]
    assert lines[1:] == [
        "FLOPs 30.94 B", "MACs 15.47 B", "parameters 138.34 M (weights)", "138.36 M (with biases)",
    ]  # fmt: skip


def test_plan_prints_the_published_figures_to_the_digit() -> None:
    lines = [" ".join(line.split()) for line in _plan(_rows(6)).splitlines()]

    assert "FLOPs 30.94 B 9.58 B 3.23x fewer" in lines
    assert "parameters 138.34 M (weights) 131.44 M (weights) 1.05x fewer" in lines
    assert "138.36 M (with biases) 131.45 M (with biases) 1.05x fewer" in lines


@pytest.mark.parametrize("width", [80, 120])
def test_plan_has_a_line_for_every_layer(width: int) -> None:
    rows = _rows(54)
    lines = _plan(rows, width).splitlines()

    for row in rows:
        (line,) = [x for x in lines if x.split()[:1] == [row.layer]]
        assert f"keeps {row.filters_after} of {row.filters_before} " in line


def test_a_long_name_is_folded_and_not_cut() -> None:
    name = "a.very.long.module.path." * 5
    text = _plan([replace(ROW, layer=name)], width=80)

    assert "…" not in text
    assert "".join(line.split(" ")[0] for line in text.splitlines()).find(name) >= 0


def test_layers_left_whole_are_summarised_by_reason() -> None:
    assert "[bold]conv " in _plan([replace(ROW, layer="[bold]conv")])
    whole = {f"layer{i}.conv3": "its output is added" for i in range(NAMED + 2)}
    text = _plan([], whole={**whole, "[bold]fc": "a [linear] layer"})

    named = ", ".join(f"layer{i}.conv3" for i in range(NAMED))
    assert f"left whole: {named} and 2 more: its output is added\n" in text
    assert "left whole: [bold]fc: a [linear] layer\n" in text  # no markup is read from names

"""What pruning shows before it begins: the layers that will be cut, and what the network costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thinet.report import numbers
from thinet.report.table import Table
from thinet.report.terminal import COSTS, Costs, print_line, print_table

if TYPE_CHECKING:
    from rich.console import Console

NAMED = 8
"""Layers named for each reason to leave layers whole."""


@dataclass(frozen=True)
class PlanRow:
    """A layer that will be cut.

    Attributes:
        layer: Its name.
        filters_before: Filters it has.
        filters_after: Filters it will have.
        ratio: The second by the first.
        flops_before: Of this layer alone.
        flops_after: The same of the pruned network.
        params_before: Of this layer alone.
        params_after: The same of the pruned network.
    """

    layer: str
    filters_before: int
    filters_after: int
    ratio: float
    flops_before: int
    flops_after: int
    params_before: int
    params_after: int


def print_plan(
    rows: Sequence[PlanRow],
    before: Costs,
    after: Costs,
    whole: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> None:
    """Print what will be cut and what the pruned network will cost.

    Args:
        rows: The layers that will be cut.
        before: What the whole network costs.
        after: What the pruned one will cost.
        whole: For each layer that is left whole, the reason.
        console: Where to print; the standard output by default.
    """
    cells = tuple(
        (
            row.layer,
            f"keeps {row.filters_after} of {row.filters_before}",
            f"{row.ratio:.2f}",
            f"{numbers.human(row.flops_before)} → {numbers.human(row.flops_after)}",
            f"{numbers.human(row.params_before)} → {numbers.human(row.params_after)}",
        )
        for row in rows
    )
    heads = ("layer", "filters", "ratio", "FLOPs", "parameters")
    print_table(Table("", heads, cells), console)
    for line in _left_whole(whole or {}):
        print_line(line, console)
    print_table(_totals(before, after), console)


def _left_whole(whole: Mapping[str, str]) -> list[str]:
    """One line a reason for the layers that are not cut, naming the first few of them."""
    reasons: dict[str, list[str]] = {}
    for layer, reason in whole.items():
        reasons.setdefault(reason, []).append(layer)
    lines = []
    for reason, layers in reasons.items():
        more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
        lines.append(f"left whole: {', '.join(layers[:NAMED])}{more}: {reason}")
    return lines


def _totals(before: Costs, after: Costs) -> Table:
    def row(label: str, of: Callable[[Costs], int], note: str) -> tuple[str, ...]:
        old, new = of(before), of(after)
        values = (f"{numbers.human(value)}{note}" for value in (old, new))
        return (label, *values, numbers.change(old, new, "fewer", "more"))

    return Table("", ("network", "before", "after", "change"), tuple(row(*one) for one in COSTS))

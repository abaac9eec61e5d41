"""What a run shows on the terminal: the plan before it, the comparison after it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thinet.report import numbers
from thinet.report.results import before_finetuning, compare, headline, peak_memory, subject
from thinet.report.sensitivity import sensitivity_lines, sensitivity_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 120
"""Columns where the output is not a terminal: a log must not cut names short."""

COSTS = (
    ("FLOPs", "flops", ""),
    ("MACs", "macs", ""),
    ("parameters", "weights", " (weights)"),
    ("", "params", " (with biases)"),
)

NAMED = 8
"""Layers named for each reason to leave layers whole."""


def print_plan(
    rows: Sequence[Mapping[str, Any]], totals: Mapping[str, Any], console: Console | None = None
) -> None:
    """Print what will be cut and what the slim network will cost.

    Args:
        rows: For each layer ``layer``, ``filters_*``, ``ratio``, ``flops_*``, ``params_*`` with
            ``before`` and ``after``; or ``layer`` and ``reason`` for one that is left whole.
        totals: ``flops_*``, ``macs_*``, ``params_*`` and ``weights_*`` of the whole network.
        console: Where to print; the standard output by default.
    """
    from rich.text import Text

    console = console or _console()
    table = _table("layer", "filters", "ratio", "FLOPs", "parameters")
    for row in rows:
        if "reason" not in row:
            table.add_row(
                Text(row["layer"]),
                f"keeps {row['filters_after']} of {row['filters_before']}",
                f"{row['ratio']:.2f}",
                *(_step(row, key, numbers.human) for key in ("flops", "params")),
            )
    console.print(table)
    for line in _left_whole(rows):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(_totals(totals))


def _left_whole(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a reason for the layers that are not cut, naming the first few of them."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if "reason" in row:
            reasons.setdefault(row["reason"], []).append(row["layer"])
    lines = []
    for reason, layers in reasons.items():
        more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
        lines.append(f"left whole: {', '.join(layers[:NAMED])}{more}: {reason}")
    return lines


def _totals(totals: Mapping[str, Any]) -> Table:
    table = _table("network", "before", "after", "change")
    for label, key, note in COSTS:
        before, after = totals[f"{key}_before"], totals[f"{key}_after"]
        table.add_row(
            label,
            f"{numbers.human(before)}{note}",
            f"{numbers.human(after)}{note}",
            numbers.change(before, after, "fewer", "more"),
        )
    return table


def print_costs(costs: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what one network costs.

    Args:
        costs: Its ``flops``, ``macs``, ``params`` and ``weights``.
        console: Where to print; the standard output by default.
    """
    console = console or _console()
    table = _table("network", "cost")
    for label, key, note in COSTS:
        table.add_row(label, f"{numbers.human(costs[key])}{note}")
    console.print(table)


def print_result(result: dict[str, Any], console: Console | None = None) -> None:
    """Print the baseline against the slim network.

    Args:
        result: Content of ``result.json``.
        console: Where to print; the standard output by default.
    """
    console = console or _console()
    console.print()
    console.print(headline(result), style="bold", markup=False, highlight=False)
    console.print(subject(result), style="dim", markup=False, highlight=False)
    slim = bool(result.get("slim"))
    table = _table("", "baseline", *(("slim", "change") if slim else ()))
    for line in compare(result):
        table.add_row(line.label, line.baseline, *((line.slim, line.change) if slim else ()))
    console.print(table)
    for label, accuracy in before_finetuning(result):
        console.print(
            f"before fine-tuning, {label}: top-1 {numbers.percent(accuracy.get('top1'))}, "
            f"top-5 {numbers.percent(accuracy.get('top5'))}",
            highlight=False,
        )
    console.print(f"accuracies on the test set; {numbers.seconds(result.get('seconds'))} in all")
    if left_out := result.get("unreadable_images"):
        what = "an image was" if len(left_out) == 1 else f"{len(left_out)} images were"
        console.print(f"{what} left out, being unreadable: result.json lists them", highlight=False)
    if memory := peak_memory(result):
        console.print(f"peak memory of the stages: {memory}", highlight=False)
    if result.get("sensitivity"):
        console.print()
        console.print(sensitivity_table(result))
        for text in sensitivity_lines(result):
            console.print(text, markup=False, highlight=False, soft_wrap=True)


def _step(row: Mapping[str, Any], key: str, write: Any) -> str:
    return f"{write(row[f'{key}_before'])} → {write(row[f'{key}_after'])}"


def _table(first: str, *others: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, overflow="fold")
    for other in others:
        table.add_column(other, justify="right", no_wrap=True)
    return table


def _console() -> Console:
    from rich.console import Console

    class Lines(Console):
        def on_broken_pipe(self) -> None:
            """Leave it to whoever called; rich would end the program without a word."""
            raise BrokenPipeError

    return Lines() if sys.stdout.isatty() else Lines(width=PIPE_WIDTH)

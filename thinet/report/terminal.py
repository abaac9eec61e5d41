"""What a run shows on the terminal: the costs before it, the comparison after it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from thinet.report import numbers
from thinet.report.sections import sections
from thinet.report.table import Table, headline, lead, left_out, peak_memory, subject, summary
from thinet.run.result import Result

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 120
"""Columns where the output is not a terminal: a log must not cut names short."""


class Costs(Protocol):
    """What one network costs: a :class:`Measurement` is one, as is what counts a network."""

    @property
    def flops(self) -> int:
        """2 x multiply-accumulates."""

    @property
    def macs(self) -> int:
        """Half of that."""

    @property
    def params(self) -> int:
        """All parameters."""

    @property
    def weights(self) -> int:
        """Without biases."""


COSTS: tuple[tuple[str, Callable[[Costs], int], str], ...] = (
    ("FLOPs", lambda one: one.flops, ""),
    ("MACs", lambda one: one.macs, ""),
    ("parameters", lambda one: one.weights, " (weights)"),
    ("", lambda one: one.params, " (with biases)"),
)


def print_costs(costs: Costs, console: Console | None = None) -> None:
    """Print what one network costs.

    Args:
        costs: Of the network.
        console: Where to print; the standard output by default.
    """
    rows = tuple((label, f"{numbers.human(of(costs))}{note}") for label, of, note in COSTS)
    print_table(Table("", ("network", "cost"), rows), console)


def print_result(result: Result, console: Console | None = None) -> None:
    """Print the reference against the model, and what the families have to say.

    Args:
        result: The result.
        console: Where to print; the standard output by default.
    """
    console = console or _console()
    said = sections(result)
    console.print()
    console.print(headline(result), style="bold", markup=False, highlight=False)
    console.print(subject(result), style="dim", markup=False, highlight=False)
    print_table(summary(result), console)
    console.print(f"{lead(result)}; {numbers.seconds(result.run.seconds)} in all")
    for line in filter(None, (left_out(result), _memory(result))):
        console.print(line, highlight=False)
    for section in said:
        for table in section.tables():
            if table.brief:
                console.print()
                print_table(table, console)
        for line in section.lines():
            print_line(line, console)


def _memory(result: Result) -> str:
    found = peak_memory(result.steps)
    return found and f"peak memory of the steps: {found}"


def print_line(text: str, console: Console | None = None) -> None:
    """Print a line as it is, however long."""
    (console or _console()).print(text, markup=False, highlight=False, soft_wrap=True)


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table; nothing in it is read as markup."""
    from rich import table as rich
    from rich.text import Text

    drawn = rich.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, head in enumerate(table.heads):
        if place:
            drawn.add_column(Text(head), justify="right", no_wrap=True)
        else:
            drawn.add_column(Text(head), overflow="fold")
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    (console or _console()).print(drawn)


def _console() -> Console:
    from rich.console import Console

    class Lines(Console):
        def on_broken_pipe(self) -> None:
            """Leave it to whoever called; rich would end the program without a word."""
            raise BrokenPipeError

    return Lines() if sys.stdout.isatty() else Lines(width=PIPE_WIDTH)

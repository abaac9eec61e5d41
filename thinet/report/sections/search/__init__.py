"""What a search of widths leaves: how wide each layer should be, and what that is worth."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from thinet.report import numbers
from thinet.report.sections.base import Plot, Section, StepFigure, Width, Widths
from thinet.report.sections.search.details import (
    KEY,
    UNIFORM,
    Candidate,
    SearchDetails,
    Trained,
    WidthRow,
)
from thinet.report.sections.search.figures import search_figure, widths_figure
from thinet.report.sections.search.words import (
    EVEN,
    FOUND,
    best_of,
    counted,
    named,
    sentences,
    trained,
)
from thinet.report.table import Table, subject
from thinet.run.result import Measurement

__all__ = [
    "KEY",
    "UNIFORM",
    "Candidate",
    "Search",
    "SearchDetails",
    "Trained",
    "WidthRow",
]

_WHOLE = Candidate((), UNIFORM, 0.0, 1.0, 1.0, 1.0)
"""What the full network would be among the candidates."""
NAMED = 3
"""Layers of a group that have their names in a table."""
COLUMNS = ("generation", "error", "cost", "flops", "params", "genes")


@dataclass(frozen=True)
class Search(Section[SearchDetails]):
    """The section of a search: all candidates, the found widths, found beside uniform."""

    key: ClassVar[str] = KEY
    kind: ClassVar[type[object]] = SearchDetails
    step_figures: ClassVar[Mapping[str, StepFigure]] = {
        "proxy_top1": StepFigure("best by the proxy"),
        "proxy_top1_mean": StepFigure("mean"),
        "proxy_top1_uniform": StepFigure("uniform by the proxy"),
        "top1_found": StepFigure("top-1, found"),
        "top1_uniform": StepFigure("top-1, uniform"),
    }
    accuracies: ClassVar[Mapping[str, str]] = {"top1_uniform": "uniform widths"}

    def lines(self) -> Sequence[str]:
        """What was searched, what it is worth, how much of it is chance, how to go on."""
        return [
            *sentences(self.found),
            f"go on with these widths: ratio=@{self.found.folder or '<folder of this run>'} "
            "layers=all, with criterion=thinet for ThiNet's choice of filters or method=scratch to "
            "train them anew",
        ]

    def figures(self) -> Mapping[str, float | None]:
        """The accuracy of the uniform widths."""
        even = trained(self.found, EVEN)
        return {"top1_uniform": even.top1 if even else None}

    def beside(self) -> Mapping[str, Measurement]:
        """The network of uniform widths."""
        even = trained(self.found, EVEN)
        return {"uniform widths": even} if even else {}

    def tables(self) -> Sequence[Table]:
        """Found beside uniform widths; the widths of each group of layers."""
        tables = [self._worth()] if self.found.candidates else []
        return [*tables, _widths_table(self.found)] if self.found.widths else tables

    def _worth(self) -> Table:
        found, full = self.found, self.result.reference
        even, ours = trained(found, EVEN), trained(found, FOUND)
        rows = [self._row("full network", None, full)]
        if found.uniform is not None or even is not None:
            rows.append(self._row("uniform widths", found.uniform, even))
        rows.append(self._row("found widths", best_of(found), ours))
        heads = ["", "FLOPs", "parameters", "proxy's error"]
        if found.kind == "latency":
            heads.insert(3, "predicted latency")
        tested = [one is not None and one.top1 is not None for one in (full, even, ours)]
        if any(tested):
            heads += ["top-1", "top-5"]
        note = "The proxy's error ranks widths and is no accuracy to expect."
        if ours is not None and even is not None and all(tested[1:]):
            heads.append("against uniform")
            rows[-1] = (*rows[-1], numbers.points(even.top1, ours.top1))
            epochs = f", for {found.epochs:,} epochs" if found.epochs else ""
            note += f" Both are trained from scratch by the same recipe{epochs}."
        cells = tuple((*row, "–")[: len(heads)] for row in rows)
        title = "Found beside uniform widths" if len(rows) > 2 else "Found widths"
        return Table(title, tuple(heads), cells, note, brief=True, leading=True)

    def _row(
        self, name: str, judged: Candidate | None, measured: Measurement | None
    ) -> tuple[str, ...]:
        """A network; costs that were not counted are a share of the full network's."""
        full = self.result.reference
        share = _WHOLE if measured is full else judged
        cells = [
            _cost(full.flops, measured.flops if measured else None, share.flops if share else None),
            _cost(
                full.params, measured.params if measured else None, share.params if share else None
            ),
        ]
        if self.found.kind == "latency":
            cells.append(numbers.percent(share.cost, 1) if share else "–")
        return (
            name,
            *cells,
            numbers.percent(judged.error) if judged else "–",
            numbers.percent(measured.top1) if measured else "–",
            numbers.percent(measured.top5) if measured else "–",
        )

    def plots(self) -> Sequence[Plot]:
        """All candidates, and the found widths."""
        found, about, plots = self.found, subject(self.result), list[Plot]()
        if found.candidates:
            caption = (
                "All candidates: accuracy as the proxy sees it, which ranks and is no accuracy "
                f"to expect, against the {counted(found)} that are left; and over the generations "
                "the best so far and the mean of each."
            )
            plots.append(Plot("search", caption, partial(search_figure, found, about)))
        if found.widths:
            caption = "Channels that each group of layers keeps: found"
            caption += ", and uniform." if found.uniform is not None else "."
            plots.append(Plot("search_widths", caption, partial(widths_figure, found, about)))
        return plots

    def files(self) -> Mapping[str, str]:
        """``candidates.csv``: one row each, in order; genes are separated by spaces."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for one in self.found.candidates:
            writer.writerow({**vars(one), "genes": " ".join(map(str, one.genes))})
        return {"candidates.csv": text.getvalue()}

    def widths(self) -> Widths | None:
        """Channels of every group."""
        return Widths({row.layers[0]: _width(row) for row in self.found.widths if row.layers})


def _cost(full: int, known: int | None, share: float | None) -> str:
    """A cost and what it is of the full one, from either."""
    cost = round(full * share) if known is None and share is not None else known
    if cost is None or cost == full or not full:
        return numbers.human(cost)
    return f"{numbers.human(cost)} ({numbers.percent(cost / full, 1)})"


def _width(row: WidthRow) -> Width:
    share = row.found / row.full if row.full else 0.0
    title = f"{row.full} → {row.found} channels, {numbers.percent(share, 1)} kept"
    return Width(share, str(row.found), title, row.full)


def _widths_table(found: SearchDetails) -> Table:
    even = found.uniform is not None
    rows = tuple(
        (
            named(row, NAMED),
            str(row.full),
            str(row.found),
            numbers.percent(row.found / row.full if row.full else None, 0),
            *((str(row.uniform),) if even else ()),
        )
        for row in found.widths
    )
    heads = ("layers", "full", "found", "kept", *(("uniform",) if even else ()))
    note = "Layers in one row can only be as wide as each other. Widths are numbers of channels."
    return Table("Widths", heads, rows, note)

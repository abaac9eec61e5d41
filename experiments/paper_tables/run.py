"""The tables of the ThiNet papers beside this implementation: costs always, accuracy from runs.

python -m experiments.paper_tables.run                  # costs alone: no data, no weights
python -m experiments.paper_tables.run --runs outputs   # and the accuracies of finished runs
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from experiments.cifar import splice
from experiments.paper_tables.costs import cells, composed, differing, row_costs
from thinet.base.errors import ThinetError
from thinet.base.files import write_text_atomic
from thinet.report.many.runs import check_protocols
from thinet.run.result import Measurement, Result, read_result

HERE = Path(__file__).parent
HEADS = ("network", "params, paper", "ours", "FLOPs, paper", "ours", "top-1, paper", "top-5",
         "top-1, measured", "top-5")  # fmt: skip


def read_tables() -> list[dict[str, Any]]:
    """The tables of the papers, from ``tables.yaml``."""
    return list(yaml.safe_load((HERE / "tables.yaml").read_text()))


def finished(folders: Iterable[Path]) -> list[Result]:
    """The results of all finished runs in and below some folders.

    Raises:
        ThinetError: If there is none.
    """
    files = [file for folder in folders for file in sorted(folder.glob("**/result.json"))]
    if not files:
        raise ThinetError(
            "none of the folders given with --runs holds a finished run: give outputs, or leave "
            "--runs out for the costs alone."
        )
    return [read_result(file) for file in files]


def measured(row: dict[str, Any], results: Sequence[Result]) -> list[tuple[Measurement, Result]]:
    """The figures of the runs that belong to a row: same recipe, same costs."""
    costs = row_costs(row)
    if costs is None or "plan" not in row:
        return []
    wanted = composed(tuple(row.get("runs", row["plan"])))
    found = []
    for result in results:
        run = result.run
        same = (run.model, run.dataset) == (wanted.model.name, wanted.dataset.name)
        figures = result.reference if row.get("before") else result.final
        if not row.get("before"):
            same &= run.method == wanted.method.name
            if wanted.method.name == "prune":
                same &= result.settings["criterion"] == wanted.criterion.name
        if same and (figures.flops, figures.weights) == (costs["flops"], costs["weights"]):
            found.append((figures, result))
    return [one for one in found if one[0].top1 is not None]


def accuracy(values: Iterable[float | None]) -> str:
    """Mean and spread over runs, in percent."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return ""
    spread = f" ± {np.std(known, ddof=1):.2f} ({len(known)} runs)" if len(known) > 1 else ""
    return f"{np.mean(known):.2f}{spread}"


def lines(table: dict[str, Any], results: Sequence[Result]) -> list[list[str]]:
    """The rows of a table, ready to print.

    Raises:
        ThinetError: If runs of one table were tested under different protocols.
    """
    made, used = [], []
    for row in table["rows"]:
        own, paper = cells(table, row), row["paper"]
        found = measured(row, results)
        used += [result for _, result in found]
        recalled = " (recalled)" if row.get("status") == "recalled" else ""
        made.append([
            row["name"],
            paper.get("params", ""), own["params"] or "",
            paper.get("flops", ""), own["flops"] or "",
            *(f"{paper[key]:.2f}{recalled}" if key in paper else "" for key in ("top1", "top5")),
            accuracy(one.top1 for one, _ in found), accuracy(one.top5 for one, _ in found),
        ])  # fmt: skip
    check_protocols((one.run.dataset, one.run.name, one.protocol.get("resize")) for one in used)
    return made


def notes(table: dict[str, Any]) -> list[str]:
    """What has to be said of single rows: where we differ and why, and what is not computed."""
    said = []
    for row in table["rows"]:
        own = cells(table, row)
        for key in differing(table, row):
            why = row.get("differs", {}).get(key, "not explained")
            said.append(
                f"{row['name']}: {key} {row['paper'][key]} in the paper, {own[key]} here: {why}"
            )
        if "reason" in row:
            said.append(f"{row['name']}: not computed, {row['reason']}")
    return said


def show(table: dict[str, Any], rows: list[list[str]], console: Console) -> None:
    """Print one table."""
    console.print(table["name"], style="bold", soft_wrap=True)
    drawn = Table(box=None, pad_edge=False)
    for place, head in enumerate(HEADS):
        drawn.add_column(head, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    console.print(drawn)
    for note in notes(table):
        console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)
    console.print()


def markdown(table: dict[str, Any], rows: list[list[str]]) -> str:
    """One table for the README."""
    head = [f"### {table['name']}", "", f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*head, *body, "", *(f"- {note}" for note in notes(table))]).rstrip()


def write_csv(tables: Sequence[tuple[dict[str, Any], list[list[str]]]], path: Path) -> None:
    """All tables in one file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", *HEADS])
    for table, rows in tables:
        writer.writerows([table["name"], *row] for row in rows)
    write_text_atomic(path, text.getvalue())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print all tables, and write ``results.csv`` and the README's tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="folders of finished runs")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        results = finished(options.runs) if options.runs else []
        made = [(table, lines(table, results)) for table in read_tables()]
    except ThinetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for table, rows in made:
        show(table, rows, console)
    write_csv(made, options.out / "results.csv")
    if (options.out / "README.md").exists():
        splice(options.out / "README.md", "\n\n".join(markdown(*one) for one in made))
    unexplained = [
        row["name"] for table, _ in made for row in table["rows"]
        if set(differing(table, row)) - set(row.get("differs", {}))
    ]  # fmt: skip
    if unexplained:
        print(f"error: costs differ from the paper without a reason: {', '.join(unexplained)}")
    return int(bool(unexplained))


if __name__ == "__main__":
    sys.exit(main())

"""How much faster is a binary network on an ordinary CPU, and than what?

Usage: python -m experiments.binary_speed.run [--threads 1 2] [--fresh]
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.binary_speed.engines import LAYERS, ORDERS, TINY, WHOLE, Subject, inside, tasks
from experiments.smoke import parse
from experiments.timing import (
    Row,
    default_threads,
    hardware,
    markdown,
    ratio,
    spread,
    take_turns,
    threads,
    write_rows,
)
from thinet.report.style import BLUE, GREEN, GRID, INK, MUTED, SKY, new_figure, save_png

HERE = Path(__file__).parent
SUBJECTS = {subject.name: subject for subject in (*LAYERS, *WHOLE, TINY)}


def measure(subject: Subject, count: int, rounds: int, patience: float) -> Row:
    """All ways of running a subject in turn.

    Args:
        subject: A layer or a network.
        count: Threads, of torch and of OpenVINO.
        rounds: At most so many.
        patience: Seconds after which ten rounds are enough.
    """
    with threads(count):
        found = tasks(subject, count)
        times = take_turns(found, rounds, patience, least=min(rounds, 10), warm_up=5)
        row: Row = {"subject": subject.name, "threads": count, "rounds": len(times["fp32"])}
        row |= {f"us_{name}": 1e6 * statistics.median(own) for name, own in times.items()}
        for name in ("bf16", "int8"):
            row[f"{name}_over_fp32"] = ratio(times, "fp32", name)
        for order in ORDERS:
            name = f"order{order}"
            row[f"{name}_over_fp32"] = ratio(times, "fp32", name)
            row[f"{name}_spread"] = spread(times, "fp32", name)
            row[f"{name}_over_eager"] = ratio(times, "eager", name)
            row[f"{name}_over_int8"] = ratio(times, "int8", name)
            parts = inside(subject, order, count)
            binary, total = parts["BinaryConvolution"], sum(parts.values())
            row[f"{name}_popcount_share"] = binary / total
            row[f"{name}_popcount_limit"] = row["us_fp32"] / max(binary, 1.0)  # of whole ones
            row[f"{name}_paper"] = subject.theory(order)
    return row


COLUMNS = {
    "subject": "layer or network",
    "threads": "threads",
    "us_eager": "PyTorch, us|.0f",
    "us_fp32": "OpenVINO, us|.0f",
    "bf16_over_fp32": "bf16|.1f",
    "int8_over_fp32": "int8|.1f",
    "order1_over_fp32": "order 1|.1f",
    "order2_over_fp32": "**order 2**|.1f",
    "order3_over_fp32": "order 3|.1f",
    "order2_popcount_limit": "its popcount limit|.1f",
    "order2_paper": "in the paper|.1f",
    "order2_over_eager": "order 2 over PyTorch|.1f",
}


def draw(rows: Sequence[Row], where: str, path: Path) -> None:
    """Bars: times faster than OpenVINO's own fp32, order by order; marks: int8 and the limit."""
    figure, (ax,) = new_figure(
        9.0, 1.4 + 0.45 * len(rows), "Times faster than OpenVINO in full precision",
        f"batch 1, medians of paired ratios; {where}",
    )  # fmt: skip
    places = list(range(len(rows)))[::-1]
    for shift, order, color in ((0.27, 1, SKY), (0.0, 2, BLUE), (-0.27, 3, GREEN)):
        values = [row[f"order{order}_over_fp32"] for row in rows]
        ax.barh(
            [place + shift for place in places], values, 0.25, color=color, label=f"order {order}"
        )
    for key, mark, label in (
        ("int8_over_fp32", "D", "int8"),
        ("order2_popcount_limit", "|", "order 2, popcounts alone"),
    ):
        ax.scatter([row[key] for row in rows], places, marker=mark, s=60, color=INK, label=label)
    ax.axvline(1, color=MUTED, linewidth=1)
    threads_of = [f"{row['subject']}, {row['threads']} thread(s)" for row in rows]
    ax.set_yticks(places, threads_of, size=7.5)
    ax.set_xlabel("times faster")
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.legend(fontsize=7.5, frameon=False)
    save_png(figure, path)


def known(path: Path) -> list[Row]:
    """The rows of an earlier run."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is not in ``results.csv`` beside this file yet, and draw ``figure.png``."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [subject.name for subject in (*LAYERS, *WHOLE)]
    parser.add_argument("--subjects", nargs="+", default=names, choices=list(SUBJECTS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, default_threads()])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--patience", type=float, default=20.0, help="seconds for a row")
    parser.add_argument("--fresh", action="store_true", help="measure again what is known")
    parser.add_argument("--out", type=Path, default=HERE)
    tiny = {"subjects": [TINY.name], "threads": [1], "rounds": 2, "patience": 0.0}
    options = parse(parser, words, **tiny)
    path = options.out / "results.csv"
    rows = [] if options.fresh else known(path)
    done = {(row["subject"], row["threads"]) for row in rows}
    for count in dict.fromkeys(options.threads):
        for name in options.subjects:
            if (name, count) in done:
                continue
            row = measure(SUBJECTS[name], count, options.rounds, options.patience)
            rows.append({**row, "machine": hardware(torch.device("cpu"), count)})
            write_rows(path, rows)
            print(f"{name}, {count} thread(s): order 2 {row['order2_over_fp32']:.1f}x", flush=True)
    where = ", ".join(dict.fromkeys(str(row["machine"]) for row in rows))
    draw(rows, where, options.out / "figure.png")
    print(f"\n{where}\n\n{markdown(rows, COLUMNS)}")


if __name__ == "__main__":
    main()

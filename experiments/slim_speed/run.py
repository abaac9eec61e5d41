"""Does a slim network run as much faster as it needs fewer FLOPs?

Usage: python -m experiments.slim_speed.run [--subjects vgg16 ...] [--everything]
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from experiments.slim_speed.variants import (
    SUBJECTS,
    Cell,
    everything,
    flops_ratio,
    images,
    one_at_a_time,
    prepared,
    slimmed,
    work,
)
from experiments.smoke import parse
from experiments.timing import (
    Row,
    default_threads,
    hardware,
    markdown,
    ratio,
    spread,
    synchroniser,
    take_turns,
    threads,
    write_rows,
)
from thinet.report.style import BLUE, GRID, INK, MUTED, SKY, new_figure, save_png

HERE = Path(__file__).parent


@lru_cache(maxsize=1)  # a full VGG-16 takes half a GiB; cells of one network follow each other
def pair(subject: str, round_to: int, size: int) -> tuple[nn.Module, nn.Module, float]:
    """The full and the slim network of a subject, and the ratio of their FLOPs."""
    torch.manual_seed(0)
    full = SUBJECTS[subject].build(num_classes=1000, image_size=size)
    slim = slimmed(full, SUBJECTS[subject], round_to, size)
    return full, slim, flops_ratio(full, slim, size)


def measure(cell: Cell, size: int, device: torch.device, rounds: int, patience: float) -> Row:
    """The slim network's speed-up in one cell.

    Args:
        cell: What to run and how.
        size: Of an image, in pixels.
        device: Where.
        rounds: At most so many, of the full and the slim network in turn.
        patience: Seconds after which three rounds are enough.
    """
    full, slim, fewer = pair(cell.subject, cell.round_to, size)
    batch = images(cell, size, device)
    tasks = {
        name: work(prepared(network, cell, device), batch, cell.work)
        for name, network in (("full", full), ("slim", slim))
    }
    times = take_turns(tasks, rounds, patience, warm_up=1, finish=synchroniser(device))
    if cell.mode == "compile":
        torch.compiler.reset()
    faster = ratio(times, "full", "slim")
    return {
        **asdict(cell),
        "flops_ratio": fewer,
        "speed_up": faster,
        "speed_up_spread": spread(times, "full", "slim"),
        "share": faster / fewer,
        "rounds": len(times["full"]),
    }


def label(row: Row) -> str:
    """What distinguishes a cell, in a few words."""
    words = [SUBJECTS[row["subject"]].title, f"batch {row['batch']}"]
    words.append("forward + backward" if row["work"] == "both" else "forward")
    usual = Cell("")
    for key, text in (
        ("layout", row["layout"]),
        ("dtype", row["dtype"]),
        ("mode", "torch.compile"),
        ("round_to", f"round_to={row['round_to']}"),
    ):
        if row[key] != getattr(usual, key):
            words.append(text)
    return ", ".join(words)


def draw(rows: Sequence[Row], where: str, path: Path) -> None:
    """Bars: measured speed-up; a mark each: what the FLOPs promise."""
    note = (
        f"speed-up of the slim network, float32, eager unless said; light: with backward; {where}"
    )
    draw_bars(rows, [label(row) for row in rows], f"{note}; {where}", path)


def draw_bars(rows: Sequence[Row], names: Sequence[str], note: str, path: Path) -> None:
    """The same with other names of the rows and another line below the title."""
    figure, (ax,) = new_figure(
        9.0, 1.3 + 0.235 * len(rows), "What fewer FLOPs are worth", note
    )  # fmt: skip
    places = range(len(rows))[::-1]
    colors = [SKY if row["work"] == "both" else BLUE for row in rows]
    ax.barh(places, [row["speed_up"] for row in rows], color=colors, height=0.66)
    ax.scatter(
        [row["flops_ratio"] for row in rows], places, marker="|", s=95, color=INK, linewidth=1.6
    )
    for place, row in zip(places, rows, strict=True):
        at = max(row["speed_up"], row["flops_ratio"])
        ax.annotate(
            f"{row['speed_up']:.2f}x, {row['share']:.0%} of {row['flops_ratio']:.2f}x",
            (at, place), xytext=(6, 0), textcoords="offset points", va="center",
            size=7.5, color=INK,
        )  # fmt: skip
    ax.axvline(1, color=MUTED, linewidth=1)
    ax.set_yticks(places, list(names), size=7.5)
    ax.set_ylim(-0.7, len(rows) - 0.3)
    ax.set_xlim(0, 1.3 * max(max(row["speed_up"], row["flops_ratio"]) for row in rows))
    ax.set_xlabel("bar: times faster; upright mark: times fewer FLOPs")
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    save_png(figure, path)


COLUMNS = {
    "subject": "network",
    "batch": "batch",
    "work": "work",
    "layout": "layout",
    "dtype": "type",
    "mode": "mode",
    "round_to": "round_to",
    "flops_ratio": "FLOPs, times fewer|.2f",
    "speed_up": "times faster|.2f",
    "share": "share|.0%",
}


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write ``results.csv`` and ``figure.png`` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument(
        "--everything", action="store_true", help="every combination, not one at a time"
    )
    parser.add_argument("--size", type=int, default=224, help="of an image, in pixels")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--patience", type=float, default=5.0, help="seconds for a cell")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cells", type=int, help="no more than so many")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parse(
        parser,
        words,
        subjects=["mobilenet_v2"],
        size=32,
        rounds=1,
        patience=0,
        no_compile=True,
        cells=2,
        device="cpu",
    )
    device = torch.device(options.device)
    compiler = shutil.which("g++") or shutil.which("clang++") or device.type == "cuda"
    if not compiler:
        print("no C++ compiler here: the cells with torch.compile are left out")
    choose = everything if options.everything else one_at_a_time
    cells = choose(options.subjects, bool(compiler) and not options.no_compile)
    rows: list[Row] = []
    with threads(options.threads):
        for cell in cells[: options.cells]:
            rows.append(measure(cell, options.size, device, options.rounds, options.patience))
            row = rows[-1]
            print(f"{label(row)}: {row['speed_up']:.2f}x of {row['flops_ratio']:.2f}x", flush=True)
    where = f"{options.size} px, {hardware(device, options.threads)}"
    write_rows(options.out / "results.csv", [{**row, "machine": where} for row in rows])
    draw(rows, where, options.out / "figure.png")
    print(f"\n{where}\n\n{markdown(rows, COLUMNS)}")


if __name__ == "__main__":
    main()

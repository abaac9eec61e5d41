"""Which of torchvision's classification networks can be pruned, how fast, and is it right?

Usage: python -m experiments.architecture_coverage.run [--only resnet18 vit_b_16] [--resume]
       [--without-peer] [--only-timing] [--only-figure]
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torchvision

from experiments.architecture_coverage.one_network import GIB, with_thinet
from experiments.architecture_coverage.peer import described, with_torch_pruning
from experiments.architecture_coverage.picture import draw
from experiments.smoke import parse
from thinet.base.files import write_text_atomic

HERE = Path(__file__).parent
FIELDS = (
    "name", "status", "error", "prunes", "groups", "layers_cut", "layers_in_streams", "layers_left",
    "why_left", "image_size", "gflops", "params", "flops_left", "params_left", "plan_and_cut_s",
    "trace_s", "cut_s", "trial_s", "network_mb", "peak_mb", "law_image_size", "effect",
    "float32_batch1", "float32_batch3", "float64_batch1", "float64_batch3", "backward",
    "backward_batch1", "unchecked", "whole_peak_mb", "tp_status", "tp_error", "tp_s",
    "tp_flops_left", "tp_params_left", "tp_peak_mb",
)  # fmt: skip
PATIENCE = 3600.0
"""Wall seconds that one process may take, checks included."""
_FORK = multiprocessing.get_context("fork")
"""Importing torch and torchvision takes longer than most networks; forks have them already."""

STATUS = {"thinet": "status", "torch-pruning": "tp_status"}
"""The tools, and the column that says how each ended."""

Row = dict[str, str]


@dataclass(frozen=True)
class Limits:
    """What one process may take.

    Attributes:
        memory: Bytes for the networks in float64; above that, this check is left out.
        patience: CPU seconds for Torch-Pruning.
    """

    memory: float
    patience: float


def read(path: Path) -> dict[str, Row]:
    """The rows of a table, by the name of the network; none if there is no table yet."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def write(path: Path, rows: dict[str, Row]) -> None:
    """Write the table, sorted by name, so that a reader never sees half of it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows[name] for name in sorted(rows))
    write_text_atomic(path, text.getvalue())


def report(tool: str, name: str, limits: Limits, only_timing: bool, answers: Connection) -> None:
    """Run one tool on one network and send what it found, or what it raised."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    column = STATUS[tool]
    try:
        if tool == "thinet":
            row = {"status": "ok", **with_thinet(name, limits.memory, only_timing)}
        else:
            row = with_torch_pruning(name, limits.patience)
    except Exception as error:
        row = {column: "raises", column.replace("status", "error"): described(error)}
    answers.send(row)


def measured(tool: str, name: str, limits: Limits, only_timing: bool, patience: float) -> Row:
    """One network and tool in a process of its own: what it found, or how it failed."""
    column = STATUS[tool]
    error = column.replace("status", "error")
    here, there = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=report, args=(tool, name, limits, only_timing, there))
    process.start()
    there.close()
    try:
        found = here.recv() if here.poll(patience) else None
    except EOFError:
        process.join()
        found = {column: "raises", error: f"killed by signal {-(process.exitcode or 0)}"}
    if found is None:
        process.kill()
        found = {column: "timeout", error: f"stopped after {patience:.0f} s"}
    process.join()
    return {key: f"{x:.5g}" if isinstance(x, float) else str(x) for key, x in found.items()}


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is asked for, write the table after each step, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="names of networks; others stay as they are")
    parser.add_argument("--without-peer", action="store_true", help="thinet alone")
    parser.add_argument("--resume", action="store_true", help="leave out what is in the table")
    parser.add_argument(
        "--only-timing", action="store_true", help="time again what ran; check nothing"
    )
    parser.add_argument("--only-figure", action="store_true", help="draw the table again")
    parser.add_argument("--memory", type=float, default=14.0, help="GiB for the float64 check")
    parser.add_argument("--patience", type=float, default=120.0, help="CPU seconds for the peer")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parse(parser, words, only=["squeezenet1_1"])
    names = options.only or torchvision.models.list_models(module=torchvision.models)
    table = options.out / "results.csv"
    rows = read(table)
    limits = Limits(options.memory * GIB, options.patience)
    start = time.monotonic()
    tools = ["thinet"] if options.without_peer else list(STATUS)
    for name, tool in [] if options.only_figure else product(names, tools):
        before, column = rows.get(name, {"name": name}), STATUS[tool]
        if options.resume and before.get(column):
            continue
        if options.only_timing and before.get(column) != "ok":
            continue
        row = measured(tool, name, limits, options.only_timing, PATIENCE)
        rows[name] = {**(before if options.only_timing else _without(tool, before)), **row}
        write(table, rows)
        what = {key: row.get(key, "") for key in _SHOWN[tool]}
        print(f"{time.monotonic() - start:6.0f} s  {name:20}", what, flush=True)
    draw(list(rows.values()), options.out / "figure.png")


def _without(tool: str, row: Row) -> Row:
    """What the other tool found, so that nothing of an older run stays beside the new."""
    mine = tool == "thinet"
    return {key: x for key, x in row.items() if key == "name" or key.startswith("tp_") == mine}


_SHOWN = {
    "thinet": ("status", "error", "prunes", "flops_left", "plan_and_cut_s", "trial_s",
               "float32_batch3", "float64_batch3", "effect", "backward", "unchecked"),
    "torch-pruning": ("tp_status", "tp_error", "tp_flops_left", "tp_s"),
}  # fmt: skip


if __name__ == "__main__":
    main()

"""Which networks of torchvision and timm can be binarised, and what of them becomes binary?

Usage: python -m experiments.binary_coverage.run [--only resnet18 convnext_atto] [--resume]
       [--only-figure]
"""

from __future__ import annotations

import argparse
import csv
import gc
import io
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision

from experiments.binary_coverage.one_network import measured
from experiments.binary_coverage.timm_families import TIMM
from experiments.smoke import parse
from thinet.base.errors import first_line
from thinet.base.files import write_text_atomic
from thinet.report.style import BLUE, VERMILLION, new_figure, save_png

HERE = Path(__file__).parent
FIELDS = (
    "library", "name", "status", "layers", "binary", "norms", "removed", "why_not",
    "weights_binary", "flops_left", "bits_left", "params", "gflops", "image_size", "plan_s",
    "same_with_numbers", "trained_size", "forward_backward",
)  # fmt: skip
Row = dict[str, str]


def networks() -> list[tuple[str, str]]:
    """Library and name of each."""
    ours = torchvision.models.list_models(module=torchvision.models)
    return [("torchvision", name) for name in ours] + [("timm", name) for name in TIMM]


def read(path: Path) -> dict[tuple[str, str], Row]:
    """The rows of a table; none if there is no table yet."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {(row["library"], row["name"]): row for row in csv.DictReader(file)}


def write(path: Path, rows: dict[tuple[str, str], Row]) -> None:
    """Write the table, sorted, so that a reader never sees half of it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows[key] for key in sorted(rows))
    write_text_atomic(path, text.getvalue())


def row_of(library: str, name: str) -> Row:
    """What was found, or what was raised."""
    row: dict[str, object] = {"library": library, "name": name}
    try:
        row |= {"status": "ok", **measured(library, name)}
    except Exception as error:  # of whatever kind: the others are still of interest
        row["status"] = f"{type(error).__name__}: {first_line(error)[:200]}"
    return {key: f"{x:.4g}" if isinstance(x, float) else str(x) for key, x in row.items()}


def draw(rows: Sequence[Row], path: Path) -> None:
    """How much of the weights becomes binary, and how many FLOPs stay, of all networks."""
    fine = [row for row in rows if row["status"] == "ok"]
    figure, axes = new_figure(
        9, 4, f"{len(fine)} of {len(rows)} networks become binary",
        "networks in order, the first layer, the last one and what cannot be binary in floating "
        "point", columns=2,
    )  # fmt: skip
    parts = (("weights_binary", "weights that have 1 bit, %", BLUE),
             ("flops_left", "FLOPs that are left, %", VERMILLION))  # fmt: skip
    for ax, (field, label, color) in zip(axes, parts, strict=True):
        values = sorted(100 * float(row[field]) for row in fine if row.get(field))
        ax.plot(range(1, len(values) + 1), values, ".", color=color)
        ax.set_ylim(0, 101)
        ax.set_xlabel("networks")
        ax.set_ylabel(label)
    save_png(figure, path)


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is asked for, write the table after each network, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="names of networks; others stay as they are")
    parser.add_argument("--resume", action="store_true", help="leave out what is in the table")
    parser.add_argument("--only-figure", action="store_true", help="draw the table again")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parse(parser, words, only=["squeezenet1_1"])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    table = options.out / "results.csv"
    rows = read(table)
    start = time.monotonic()
    for library, name in [] if options.only_figure else networks():
        if options.only and name not in options.only:
            continue
        if options.resume and rows.get((library, name), {}).get("status") == "ok":
            continue
        row = rows[library, name] = row_of(library, name)
        write(table, rows)
        what = [row.get(key, "") for key in ("status", "binary", "layers", "forward_backward")]
        same = row.get("same_with_numbers", "")
        print(f"{time.monotonic() - start:6.0f} s  {name:32}", *what, same, flush=True)
        gc.collect()
    draw(list(rows.values()), options.out / "figure.png")


if __name__ == "__main__":
    main()

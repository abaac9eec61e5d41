"""Does a table of parts predict what networks of random widths take?

Usage: python -m experiments.latency_table.run [--subjects resnet20 ...] [--size 224]
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from experiments.smoke import parse
from experiments.timing import Row, hardware, markdown, threads, write_rows
from thinet.metrics import measure_latency
from thinet.metrics.latency_fit import drawn
from thinet.metrics.latency_timing import medians, whole_ms
from thinet.models.cifar_resnet import resnet20
from thinet.models.mobilenet import mobilenet_v2
from thinet.report.style import BLUE, MUTED, ORANGE, new_figure, save_png
from thinet.search.costs import cost_of_target, widths_of
from thinet.surgery import trace
from thinet.widths.choose import Request, choose_groups
from thinet.widths.space import Space
from thinet.widths.target import Target

HERE = Path(__file__).parent
SUBJECTS = {"resnet20": (resnet20, 10), "mobilenet_v2": (mobilenet_v2, 1000)}
COLORS = {"resnet20": BLUE, "mobilenet_v2": ORANGE}
APART = 0.05
"""Networks whose times differ by less are in no order."""


def measure(subject: str, size: int, options: argparse.Namespace) -> list[Row]:
    """A table is measured, then random networks beside their predictions.

    Args:
        subject: Of :data:`SUBJECTS`.
        size: Of an image, in pixels.
        options: How much is measured.
    """
    torch.manual_seed(0)
    build, classes = SUBJECTS[subject]
    network = build(num_classes=classes, image_size=size).eval()
    images = torch.zeros(1, 3, size, size)
    graph = trace(network, images)
    names, _ = choose_groups(network, graph, Request(layers="all"), images)
    space = Space.of(graph, names)
    shape = (3, size, size)
    table = measure_latency(
        network, widths_of(space), shape, graph=graph, levels=options.levels,
        rounds=options.rounds, passes=options.passes, tell=lambda line: print(line, flush=True),
    )  # fmt: skip
    random = drawn(widths_of(space), options.vectors, np.random.default_rng(2024))
    with torch.no_grad():
        passes = np.stack([
            whole_ms(network, graph, random, images, options.passes)
            for _ in range(options.rounds)
        ])  # fmt: skip
    measured = medians(passes)[:, 0]
    flops = cost_of_target(Target("flops", 0.5), network, graph, space, shape)
    genes = [_genes(space, counts) for counts in random]
    return [
        {
            "network": subject, "size": size, "vector": number,
            "flops_left": flops.of(genes[number]), "measured_ms": ms,
            "predicted_ms": table.ms(counts), "error": table.ms(counts) / ms - 1,
            "undisturbed": int(np.isfinite(passes[:, number, :, 1]).sum()),
            "table_mean_error": table.mean_error, "table_seconds": table.seconds,
        }
        for number, (counts, ms) in enumerate(zip(random, measured.tolist(), strict=True))
    ]  # fmt: skip


def _genes(space: Space, counts: dict[str, int]) -> tuple[int, ...]:
    """The first genes with these widths."""
    choices = [[max(1, units * percent // 100) for percent in space.scales]
               for units in space.units]  # fmt: skip
    return tuple(choice.index(counts[name]) for choice, name in
                 zip(choices, space.names, strict=True))  # fmt: skip


def in_order(rows: Sequence[Row]) -> float:
    """Of the pairs whose measured times are apart, the fraction that predictions have in order."""
    apart = [(a, b) for a, b in combinations(rows, 2)
             if abs(a["measured_ms"] / b["measured_ms"] - 1) > APART]  # fmt: skip
    right = [(a["measured_ms"] > b["measured_ms"]) == (a["predicted_ms"] > b["predicted_ms"])
             for a, b in apart]  # fmt: skip
    return sum(right) / len(right) if right else 1.0


def summary(rows: Sequence[Row]) -> Row:
    """The figures of one network, and of those vectors that had an undisturbed pass."""
    clean = [abs(row["error"]) for row in rows if row["undisturbed"]]
    errors = [abs(row["error"]) for row in rows]
    factor = statistics.median(1 + row["error"] for row in rows)
    shares = [abs((1 + row["error"]) / factor - 1) for row in rows]
    return {
        "network": f"{rows[0]['network']}, {rows[0]['size']} pixels", "vectors": len(rows),
        "mean": statistics.mean(errors), "worst": max(errors), "clean": len(clean),
        "clean_mean": statistics.mean(clean) if clean else None,
        "clean_worst": max(clean) if clean else None, "share": statistics.mean(shares),
        "share_worst": max(shares), "order": in_order(rows),
        "seconds": rows[0]["table_seconds"],
    }  # fmt: skip


COLUMNS = {
    "network": "network", "vectors": "widths", "mean": "mean error|.1%", "worst": "worst|.1%",
    "clean": "undisturbed", "clean_mean": "mean of these|.1%", "clean_worst": "worst of these|.1%",
    "share": "but for a factor|.1%", "share_worst": "worst of these|.1%", "order": "in order|.1%",
    "seconds": "table, s|.0f",
}  # fmt: skip


def draw(rows: Sequence[Row], where: str, path: Path) -> None:
    """Predicted over measured."""
    figure, (ax,) = new_figure(6.5, 4.6, "Latency of random widths, from a table", where)
    for subject in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == subject]
        ax.scatter(
            [row["measured_ms"] for row in own], [row["predicted_ms"] for row in own],
            color=COLORS[subject], s=22, label=subject,
        )  # fmt: skip
    ends = [f([row["measured_ms"] for row in rows]) for f in (min, max)]
    ax.plot(ends, ends, color=MUTED, linewidth=1)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("measured, ms (median, networks taking turns)")
    ax.set_ylabel("predicted, ms")
    ax.legend(frameon=False)
    save_png(figure, path)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write ``results.csv`` and ``figure.png`` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--size", type=int, default=96, help="of MobileNetV2's images, in pixels")
    parser.add_argument("--vectors", type=int, default=20)
    parser.add_argument("--levels", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parse(
        parser, words, subjects=["resnet20"], vectors=3, levels=2, rounds=1, passes=1
    )  # fmt: skip
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    rows: list[Row] = []
    with threads(options.threads):
        for subject in options.subjects:
            rows += measure(subject, 32 if subject == "resnet20" else options.size, options)
    where = f"{hardware(torch.device('cpu'), options.threads)}, load {busy:.1f} at the start"
    print(where)
    by_subject = [[row for row in rows if row["network"] == one] for one in options.subjects]
    print(markdown([summary(own) for own in by_subject], COLUMNS))
    write_rows(options.out / "results.csv", rows)
    draw(rows, where, options.out / "figure.png")


if __name__ == "__main__":
    main()

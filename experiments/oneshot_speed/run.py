"""How long does pruning a whole network take, in plain forward passes of the same images?

Usage: python -m experiments.oneshot_speed.run [--images 64] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.smoke import parse
from experiments.timing import (
    Row,
    default_threads,
    hardware,
    markdown,
    peak_gib,
    ratio,
    spread,
    synchroniser,
    take_turns,
    threads,
    write_rows,
)
from thinet import prune
from thinet.metrics.memory import forget_peak
from thinet.models.resnet import resnet50
from thinet.models.small_vgg import vgg_small
from thinet.models.vgg import vgg16
from thinet.pruning.prune import PruneResult
from thinet.report.style import BLUE, GRID, INK, MUTED, SKY, new_figure, save_png
from thinet.surgery import evaluating

HERE = Path(__file__).parent
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "vgg16": vgg16, "resnet50": resnet50, "vgg_small": vgg_small
}  # fmt: skip
WAYS: dict[str, dict[str, str]] = {
    "thinet": {},  # the defaults: ThiNet's criterion, the paper's factors
    "weight_sum": {"criterion": "weight_sum", "reconstruction": "none"},
}
TEXTS = {
    "thinet": "thinet.prune with its defaults",
    "weight_sum": "criterion=weight_sum, reconstruction=none",
}


@torch.no_grad()
def forward(network: nn.Module, batches: Sequence[Tensor]) -> None:
    """One plain pass over all images, as for evaluation."""
    with evaluating(network):
        for batch in batches:
            network(batch)


class Watched:
    """A task that keeps what it returned last and the most memory that it held.

    Args:
        task: What to call.
    """

    def __init__(self, task: Callable[[], Any]) -> None:
        self._task = task
        self.result: Any = None
        self.peak: float | None = None

    def __call__(self) -> None:
        """Run the task."""
        self.result = None
        forget_peak()
        self.result = self._task()
        peak = peak_gib()
        self.peak = peak if self.peak is None or peak is None else max(self.peak, peak)


def tasks(network: nn.Module, batches: Sequence[Tensor], ratio: float) -> dict[str, Watched]:
    """A plain pass and each way of pruning, over the same images in the same batches."""
    size = len(batches[0])

    def oneshot(settings: dict[str, str]) -> PruneResult:
        return prune(network, batches, ratio, layers="inner", batch_size=size, **settings)

    found = {"plain": Watched(lambda: forward(network, batches))}
    for name, settings in WAYS.items():
        found[name] = Watched(lambda settings=settings: oneshot(settings))
    return found


def measure(name: str, network: nn.Module, batches: Sequence[Tensor], rounds: int) -> list[Row]:
    """A row for each way of pruning.

    The first round is timed as well: nobody prunes twice. Only the plain pass is warmed up.
    """
    todo = tasks(network, batches, 0.5)
    todo["plain"]()
    finish = synchroniser(batches[0].device)
    times = take_turns(todo, rounds, warm_up=0, finish=finish)
    rows: list[Row] = []
    for way in WAYS:
        result: PruneResult = todo[way].result
        rows.append(
            {
                "network": name,
                "way": way,
                "images": sum(len(batch) for batch in batches),
                "batch": len(batches[0]),
                "layers": len(result.layers),
                "flops_left": result.after.flops / result.before.flops,
                "passes": ratio(times, way, "plain"),
                "passes_spread": spread(times, way, "plain"),
                "rounds": len(times["plain"]),
                "seconds": statistics.median(times[way]),
                "plain_gib": todo["plain"].peak,
                "peak_gib": todo[way].peak,
            }
        )
    return rows


def draw(rows: Sequence[Row], where: str, path: Path) -> None:
    """Bars: how many plain passes each way takes."""
    figure, (ax,) = new_figure(
        7.6, 3.6, "Pruning a whole network, in passes over the images",
        f"time over that of a plain forward pass of the same images; {where}",
    )  # fmt: skip
    places = range(len(rows))[::-1]
    colors = [BLUE if row["way"] == "thinet" else SKY for row in rows]
    ax.barh(places, [row["passes"] for row in rows], color=colors, height=0.62)
    ax.axvline(1, color=MUTED, linewidth=1)
    for place, row in zip(places, rows, strict=True):
        text = f" {row['passes']:.1f}"
        if row["peak_gib"] is not None:
            text += f"   ({row['peak_gib']:.1f} GiB; plain pass {row['plain_gib']:.1f})"
        ax.text(row["passes"], place, text, va="center", size=9, color=INK)
    labels = [f"{row['network']}, {row['layers']} layers\n{TEXTS[row['way']]}" for row in rows]
    ax.set_yticks(places, labels, size=8.5)
    ax.set_xlim(0, 1.7 * max(row["passes"] for row in rows))
    ax.set_xlabel("plain forward passes")
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    save_png(figure, path)


COLUMNS = {
    "network": "network",
    "way": "how",
    "layers": "layers cut",
    "flops_left": "FLOPs left|.2f",
    "passes": "plain passes|.1f",
    "peak_gib": "peak memory, GiB|.1f",
    "plain_gib": "of a plain pass|.1f",
}


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write ``results.csv`` and ``figure.png`` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--networks", nargs="+", default=["vgg16", "resnet50"], choices=list(NETWORKS)
    )
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="of an image, in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parse(
        parser, words, networks=["vgg_small"], images=4, batch=2, size=32, rounds=1, device="cpu"
    )
    device = torch.device(options.device)
    rows: list[Row] = []
    with threads(options.threads):
        for name in options.networks:
            torch.manual_seed(0)
            network = NETWORKS[name](num_classes=1000, image_size=options.size).to(device)
            images = torch.randn(options.images, 3, options.size, options.size, device=device)
            rows += measure(name, network, images.split(options.batch), options.rounds)
            for row in rows[-len(WAYS) :]:
                print({key: value for key, value in row.items() if key in COLUMNS}, flush=True)
    machine = hardware(device, options.threads)
    where = f"{options.images} images of {options.size} px, {machine}"
    write_rows(options.out / "results.csv", [{**row, "machine": where} for row in rows])
    draw(rows, where, options.out / "figure.png")
    print(f"\n{where}\n\n{markdown(rows, COLUMNS)}")


if __name__ == "__main__":
    main()

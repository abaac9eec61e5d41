"""What does looking cost? The statistics pass of a layer against a plain forward pass up to it.

Usage: python -m experiments.statistics_speed.run [--images 8] [--networks vgg16 resnet50]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.smoke import parse
from experiments.timing import (
    Row,
    Times,
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
from thinet.models.resnet import resnet50
from thinet.models.vgg import vgg16
from thinet.pruning.statistics import (
    ContributionMoments,
    PatchMoments,
    Sampling,
    Statistic,
    collect,
)
from thinet.report.style import (
    BLUE,
    GRID,
    INK,
    MUTED,
    ORANGE,
    VERMILLION,
    new_figure,
    save_png,
)
from thinet.surgery import Group, trace
from thinet.surgery.calls import WeightCall
from thinet.surgery.observe import observe

HERE = Path(__file__).parent
NETWORKS: dict[str, Callable[..., nn.Module]] = {"vgg16": vgg16, "resnet50": resnet50}
LAYERS = {
    "vgg16": ["features.0", "features.2", "features.7", "features.14", "features.21",
              "features.28"],
    "resnet50": ["layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer3.3.conv1",
                 "layer4.2.conv1", "layer4.2.conv2"],
}  # fmt: skip
"""From the largest maps to the most channels, before 3x3, 1x1 and linear layers."""
CALIBRATION = 256
"""Images that a statistic is told there are in all: it takes more of each if there are few."""
Kind = type[Statistic]
PASSES: dict[str, tuple[Kind, Sampling]] = {
    "sampled": (ContributionMoments, Sampling()),
    "patches": (PatchMoments, Sampling()),
    "patches_all": (PatchMoments, Sampling(positions=None)),
}
ONCE: dict[str, Sampling] = {"sampled_once": Sampling(), "exact_once": Sampling(exact=True)}
TITLES = {
    "sampled": ("sampled contributions", BLUE, "o"),
    "patches": ("patch moments, 256 positions an image", ORANGE, "s"),
    "patches_all": ("patch moments, all positions", VERMILLION, "^"),
}


def passes(
    network: nn.Module, group: Group, images: Tensor, kinds: Iterable[str]
) -> dict[str, Callable[[], object]]:
    """The pass without any statistic and one with each kind, over the same images.

    All stop after the last layer that reads the group; the plain one watches with nothing to do.
    """
    calls = {consumer.weight: consumer.calls for consumer in group.consumers}
    weights = {name: network.get_parameter(name).detach() for name in calls}
    numbers = list(range(len(images)))

    def look(statistic: Statistic) -> None:
        def take(call: WeightCall, output: Tensor, turn: int) -> None:
            statistic.update(call, output, weights[call.weight], numbers, turn)

        observe(network, images, calls, take)

    tasks: dict[str, Callable[[], object]] = {"plain": partial(observe, network, images, calls)}
    for name in kinds:
        kind, sampling = PASSES[name]
        statistic = kind.for_group(group, sampling, CALIBRATION).to(images.device)
        tasks[name] = partial(look, statistic)
    return tasks


def onces(network: nn.Module, group: Group, images: Tensor) -> dict[str, Callable[[], object]]:
    """Everything that collecting does, over a single image, and the plain pass over that image.

    The difference is what a layer costs once, whatever the number of images: room for the sums,
    checks, and for exact contributions their way from the patch moments. It is a little too much,
    as the image has its share of the statistic's work.
    """
    calls = {consumer.weight: consumer.calls for consumer in group.consumers}
    one = images[:1]

    def whole(sampling: Sampling) -> object:
        batches = [(one, [0])]
        return collect(network, [group], [ContributionMoments], batches, sampling, CALIBRATION)

    tasks: dict[str, Callable[[], object]] = {"one": partial(observe, network, one, calls)}
    return tasks | {name: partial(whole, sampling) for name, sampling in ONCE.items()}


def in_images(times: Times, name: str, images: int) -> float:
    """What ``name`` costs beyond the pass over one image, in plain passes over one of ``images``.

    Args:
        times: With ``plain`` (a batch), ``one`` (a single image) and ``name``.
        name: A task over a single image.
        images: In the batch.
    """
    extra = [
        (long - short) / whole * images
        for long, short, whole in zip(times[name], times["one"], times["plain"], strict=True)
    ]
    return max(0.0, statistics.median(extra))


def measure(network: nn.Module, group: Group, images: Tensor, rounds: int, patience: float) -> Row:
    """Ratios of the passes of one layer; the slow kinds take turns with plain passes of their own.

    Args:
        network: In ``eval()`` mode.
        group: Whose units are looked at.
        images: A batch.
        rounds: At most so many.
        patience: Seconds for either, after three rounds.
    """
    finish = synchroniser(images.device)
    row: Row = {"layer": group.name, "units": group.units}
    row["read_by"] = " ".join(consumer.name for consumer in group.consumers)
    quick = passes(network, group, images, ["sampled"])
    slow = passes(network, group, images, ["patches", "patches_all"])
    for tasks in (quick, slow | onces(network, group, images)):
        times = take_turns(tasks, rounds, patience, finish=finish)
        for name in TITLES:
            if name in times:
                row[name] = ratio(times, name, "plain")
                row[f"{name}_spread"] = spread(times, name, "plain")
                row[f"{name}_rounds"] = len(times[name])
    return row | {name: in_images(times, name, len(images)) for name in ONCE}


def draw(rows: Sequence[Row], where: str, path: Path) -> None:
    """Ratios by layer, logarithmic, one panel a network."""
    names = list(dict.fromkeys(row["network"] for row in rows))
    subtitle = f"time of the pass over that of a plain forward pass to the same layer; {where}"
    figure, axes = new_figure(
        9.4, 4.6, "Sampling contributions costs next to nothing", subtitle, len(names)
    )
    top = max(row[name] for row in rows for name in TITLES) * 1.5
    for ax, network in zip(axes, names, strict=True):
        own = [row for row in rows if row["network"] == network]
        places = range(len(own))
        ax.axhline(1, color=MUTED, linewidth=1)
        ax.axhline(1.2, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        for name, (text, color, marker) in TITLES.items():
            values = [row[name] for row in own]
            ax.plot(places, values, color=color, marker=marker, markersize=5, label=text)
        ax.set_yscale("log")
        ax.set_ylim(0.85, top)
        ticks = [tick for tick in (1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100) if tick < top]
        ax.set_yticks(ticks, [f"{tick:g}x" for tick in ticks])
        ax.minorticks_off()
        labels = [f"{row['layer']}\n{row['units']} units" for row in own]
        ax.set_xticks(places, labels, rotation=38, ha="right", rotation_mode="anchor", size=8)
        ax.set_title(network, size=10, color=INK, loc="left")
        ax.grid(axis="y", color=GRID, linewidth=0.8)
    axes[-1].legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="upper right")
    save_png(figure, path)


COLUMNS = {
    "network": "network",
    "layer": "layer",
    "units": "units",
    "sampled": "sampled|.2f",
    "patches": "patch moments, 256 positions|.2f",
    "patches_all": "patch moments, all positions|.2f",
    "sampled_once": "once a layer, sampled (images)|.1f",
    "exact_once": "once a layer, exact (images)|.1f",
}


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write ``results.csv`` and ``figure.png`` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--layers", nargs="+", help="instead of the chosen ones of each network")
    parser.add_argument("--images", type=int, default=8, help="in the batch")
    parser.add_argument("--size", type=int, default=224, help="of an image, in pixels")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--patience", type=float, default=8.0, help="seconds for a layer, twice")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parse(
        parser,
        words,
        networks=["resnet50"],
        layers=["layer1.0.conv1"],
        images=2,
        size=32,
        rounds=1,
        patience=0,
        device="cpu",
    )
    torch.manual_seed(0)
    device = torch.device(options.device)
    rows: list[Row] = []
    with threads(options.threads):
        for name in options.networks:
            network = NETWORKS[name](num_classes=1000, image_size=options.size).to(device).eval()
            images = torch.randn(options.images, 3, options.size, options.size, device=device)
            graph = trace(network, images[:1])
            for layer in options.layers or LAYERS[name]:
                group = graph.group_of(layer)
                row = measure(network, group, images, options.rounds, options.patience)
                rows.append({"network": name, "images": options.images, **row})
                print({key: value for key, value in rows[-1].items() if key in COLUMNS}, flush=True)
    where = f"{options.images} images of {options.size} px, {hardware(device, options.threads)}"
    write_rows(options.out / "results.csv", [{**row, "machine": where} for row in rows])
    draw(rows, where, options.out / "figure.png")
    print(f"\n{where}\n\n{markdown(rows, COLUMNS)}")


if __name__ == "__main__":
    main()

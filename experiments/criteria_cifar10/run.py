"""Does ThiNet beat weight sum, APoZ and random selection, at which ratio, and is it worth it?

Usage: python -m experiments.criteria_cifar10.run --root data/cifar10 \
           --weights weights/resnet56_cifar10.safetensors [--model vgg16_gap] [--only ratios ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import thinet
from experiments.cifar import (
    Data,
    accuracy,
    append_row,
    arguments,
    finetune,
    has_row,
    inputs,
    parsed,
    read_rows,
    recalibrated,
    splice,
    untrained,
)
from experiments.criteria_cifar10.figure import draw
from experiments.criteria_cifar10.tables import tables
from thinet.artifacts.names import WEIGHTS
from thinet.artifacts.store import load_state_, read_state, save
from thinet.metrics import cost
from thinet.pruning.reconstruction import NoReconstruction, Reconstruction, Refit, Scale
from thinet.pruning.statistics import Sampling
from thinet.surgery import trace
from thinet.training.fresh import cut_fresh_

HERE = Path(__file__).parent
SHAPE = (3, 32, 32)
BASELINE = {"epochs": 12, "rate": 0.02, "batch": 64}
"""How the VGG-16-GAP is trained, on all 45,000 images."""
IMAGES = 512
"""For calibration."""
PARTS = ("ratios", "single", "scratch")
PAPER = 10
"""Convolutions of VGG-16-GAP that the paper prunes: the first ones."""
RATIOS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
SINGLE = 0.4
"""Kept in the test of single layers: the paper removes 60 %."""


@dataclass(frozen=True)
class Way:
    """How to choose filters and what to do about their loss.

    Attributes:
        criterion: A file of ``thinet/pruning/criteria``.
        reconstruction: What corrects the next layer.
        each: BatchNorm statistics after each cut, not only after the last.
    """

    criterion: str
    reconstruction: Reconstruction
    each: bool = False


WAYS = {
    "random": Way("random", NoReconstruction()),
    "weight sum": Way("weight_sum", NoReconstruction()),
    "APoZ": Way("apoz", NoReconstruction()),
    "ThiNet without w": Way("thinet", NoReconstruction()),
    "ThiNet": Way("thinet", Scale()),
    "ThiNet (2019)": Way("thinet_omp", Scale()),
    "best of the engine": Way("thinet_refit", Refit("original"), True),
}
"""The paper's five curves, its later selection, and the strongest reconstruction."""


def inner_layers(model: nn.Module, name: str) -> list[str]:
    """What the paper prunes: VGG's first ten convolutions, the first of each residual block."""
    graph = trace(model, torch.zeros(1, *SHAPE))
    if name == "vgg16_gap":
        return [one for one in graph.prunable() if one.startswith("features")][:PAPER]
    return [one for one in graph.prunable() if one.endswith("conv1") and "layer" in one]


def prune(
    model: nn.Module, layers: list[str], way: Way, ratio: float, data: Data, seed: int
) -> nn.Module:
    """Cut the layers in one shot; BatchNorm statistics are left for later unless after each cut."""
    return thinet.prune(
        model,
        data.calibration(IMAGES, seed).batches(64),
        ratio,
        way.criterion,
        way.reconstruction,
        layers,
        recalibrate_bn="each" if way.each else "never",
        sampling=Sampling(seed=seed, positions=None if way.each else 256),
    ).model


def whole_run(
    model: nn.Module, layers: list[str], row: dict[str, Any], data: Data, tuning: dict[str, int]
) -> dict[str, Any]:
    """Prune all layers at one ratio: test accuracy as cut, recalibrated and fine-tuned."""
    way, seed = WAYS[row["way"]], row["seed"]
    slim = prune(model, layers, way, row["ratio"], data, seed)
    again = recalibrated(slim, data.calibration(IMAGES, seed))
    before = accuracy(again, data)
    tuned = finetune(again, data, tuning["epochs"], tuning["images"], seed)
    costs = cost(slim, SHAPE)
    return {
        "test_plain": before if has_no_norm(model) else accuracy(slim, data),
        "test": before,
        "test_finetuned": accuracy(tuned, data),
        "mflops": costs.flops / 1e6,
        "params": costs.params,
    }


def single_layer(model: nn.Module, row: dict[str, Any], data: Data) -> dict[str, Any]:
    """Remove 60 % of one layer and nothing else, without fine-tuning."""
    way, seed = WAYS[row["way"]], row["seed"]
    slim = prune(model, [row["layer"]], way, SINGLE, data, seed)
    again = recalibrated(slim, data.calibration(IMAGES, seed))
    before = accuracy(again, data)
    plain = before if has_no_norm(model) else accuracy(slim, data)
    return {"test_plain": plain, "test": before}


def from_scratch(
    layers: list[str], row: dict[str, Any], data: Data, tuning: dict[str, int]
) -> dict[str, Any]:
    """The same widths from random weights, with as many images as baseline and tuning have seen."""
    torch.manual_seed(row["seed"])
    fresh = untrained("vgg16_gap")
    graph = trace(fresh, torch.zeros(1, *SHAPE))
    counts = {name: int(graph.groups[name].units * row["ratio"] + 1e-9) for name in layers}
    slim = cut_fresh_(fresh, counts, torch.zeros(1, *SHAPE))
    slim = slim.to(memory_format=torch.channels_last)
    more = round(tuning["epochs"] * tuning["images"] / len(data.train))
    costs = cost(slim, SHAPE)
    trained = finetune(
        slim, data, tuning["baseline"] + more, len(data.train), row["seed"],
        BASELINE["rate"], int(BASELINE["batch"]),
    )  # fmt: skip
    return {
        "test": accuracy(trained, data), "mflops": costs.flops / 1e6, "params": costs.params,
    }  # fmt: skip


def has_no_norm(model: nn.Module) -> bool:
    """Whether there is nothing to recalibrate."""
    return not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def baseline(data: Data, folder: Path, epochs: int) -> nn.Module:
    """The trained VGG-16-GAP, trained here at the first call."""
    torch.manual_seed(0)
    made = untrained("vgg16_gap")
    if (folder / WEIGHTS).exists():
        load_state_(made, read_state(folder / WEIGHTS))
    else:
        print("training the VGG-16-GAP", flush=True)
        made = finetune(
            made.to(memory_format=torch.channels_last), data, epochs, len(data.train), 0,
            BASELINE["rate"], int(BASELINE["batch"]),
        )  # fmt: skip
        save(made, folder)
    return made.eval().to(memory_format=torch.channels_last)


def work(options: argparse.Namespace, layers: list[str]) -> list[dict[str, Any]]:
    """What to measure, in order: the first seed of everything before the others."""
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        common = {"model": options.model, "seed": seed}
        if "ratios" in options.only:
            tuning = {"epochs": options.epochs, "images": options.finetune_images}
            for ratio in options.ratios:
                rows += [{"part": "ratios", **common, "way": way, "ratio": ratio, **tuning}
                         for way in options.ways]  # fmt: skip
        if "single" in options.only:
            rows += [{"part": "single", **common, "way": way, "layer": layer}
                     for layer in layers[: options.layers] for way in options.ways]  # fmt: skip
        if "scratch" in options.only and options.model == "vgg16_gap":
            rows += [{"part": "scratch", **common, "ratio": ratio} for ratio in options.scratch]
    return rows


def measure(model: nn.Module, row: dict[str, Any], data: Data, tuning: dict[str, int]) -> Any:
    """The figures of one row."""
    layers = inner_layers(model, row["model"])
    if row["part"] == "single":
        return single_layer(model, row, data)
    if row["part"] == "scratch":
        return from_scratch(layers, row, data, tuning)
    return whole_run(model, layers, row, data, tuning)


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is missing in the CSV files; then tables and figure."""
    parser = arguments(__doc__, HERE)
    parser.set_defaults(model="vgg16_gap")
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS))
    parser.add_argument("--scratch", type=float, nargs="+", default=[0.7, 0.5, 0.3])
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning")
    parser.add_argument("--finetune-images", type=int, default=5_000, help="an epoch, of 45,000")
    parser.add_argument("--work", type=Path, default=Path("outputs/criteria_cifar10"))
    parser.set_defaults(ways=list(WAYS), layers=None, baseline=BASELINE["epochs"])
    options = parsed(
        parser, words, ratios=[0.5], scratch=[0.5], epochs=1, finetune_images=16, seeds=[0],
        ways=["weight sum"], layers=1, baseline=1,
    )  # fmt: skip
    if not options.draw:
        model, data = inputs(options)
        if options.model == "vgg16_gap":
            folder = options.out if options.smoke else options.work
            model = baseline(data, folder / "vgg16_gap", options.baseline)
        fill(options, model, data)
    rows = {part: read_rows(options.out / f"{part}.csv") for part in (*PARTS, "baseline")}
    text = tables(rows)
    print(text)
    if options.out == HERE:
        splice(HERE / "README.md", text)
    draw(rows, options.out)


def fill(options: argparse.Namespace, model: nn.Module, data: Data) -> None:
    """Measure every row that is missing."""
    path = options.out / "baseline.csv"
    if not has_row(read_rows(path), {"model": options.model}):
        costs = cost(model, SHAPE)
        append_row(path, {"model": options.model, "test": accuracy(model, data),
                          "mflops": costs.flops / 1e6, "params": costs.params})  # fmt: skip
    tuning = {
        "epochs": options.epochs, "images": options.finetune_images, "baseline": options.baseline
    }  # fmt: skip
    for row in work(options, inner_layers(model, options.model)):
        path = options.out / f"{row['part']}.csv"
        if not has_row(read_rows(path), row):
            found = {**row, **measure(model, row, data, tuning)}
            append_row(path, found)
            print(found, flush=True)


if __name__ == "__main__":
    sys.exit(main())

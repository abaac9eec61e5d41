"""thinet beside Torch-Pruning: same network, layers, calibration images, FLOPs and fine-tuning.

Usage: python -m experiments.peers.run --root data/cifar10 \
           --weights weights/resnet56_cifar10.safetensors [--finetune-images 5000]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

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
    mean_and_spread,
    parsed,
    read_rows,
    recalibrated,
    splice,
)
from experiments.peers.figure import draw
from experiments.peers.peer import IMPORTANCES, prune_with_peer
from thinet.metrics import cost
from thinet.pruning.reconstruction import NoReconstruction, Reconstruction, Refit, Scale
from thinet.pruning.statistics import Sampling
from thinet.surgery import trace

HERE = Path(__file__).parent
SHAPE = (3, 32, 32)
NAMES = {"resnet56": "ResNet-56", "vgg16_gap": "VGG-16-GAP at a quarter of its width"}
REFIT = Refit("original")
OURS: dict[str, tuple[str, Reconstruction, str]] = {
    "thinet none": ("thinet", NoReconstruction(), "uniform"),
    "thinet scale": ("thinet", Scale(), "uniform"),
    "thinet refit": ("thinet", Refit(), "uniform"),
    "weight_sum refit": ("weight_sum", Refit(), "uniform"),
    "random refit": ("random", Refit(), "uniform"),
    "weight_sum none": ("weight_sum", NoReconstruction(), "uniform"),
    "fpgm none": ("fpgm", NoReconstruction(), "uniform"),
    "full recipe, uniform": ("thinet_refit", REFIT, "uniform"),
    "full recipe": ("thinet_refit", REFIT, "error"),
}
"""Criterion, reconstruction and allocation; those that aim at the original outputs look at all
positions and recalibrate BatchNorms after each cut."""
PEERS = {f"tp {name}": name for name in IMPORTANCES}
GLOBAL = {f"tp {name} global": name for name in ("l1", "group_norm", "taylor", "lamp")}
MAIN = (
    "tp l1", "full recipe", "thinet scale", "thinet refit", "tp fpgm", "tp taylor", "tp random",
    "tp group_norm", "tp taylor global",
)  # fmt: skip
"""What is measured unless ``--variants`` says otherwise."""


def inner(model: nn.Module) -> list[str]:
    """The convolutions whose filters are nobody else's: what ``layers=inner`` prunes."""
    graph = trace(model, torch.zeros(1, *SHAPE, device=next(model.parameters()).device))
    names = dict(model.named_modules())
    found = [
        group.layers[0].name
        for group in graph.groups.values()
        if len(group.layers) == 1 and not group.summed and group.units and not group.reason
    ]
    return [name for name in found if isinstance(names[name], nn.Conv2d)]


def prune(model: nn.Module, variant: str, data: Data, images: int, seed: int) -> nn.Module:
    """The slim network of a variant, as its method leaves it."""
    chosen = data.calibration(images, seed)
    layers = pruned_layers(model)
    half = half_flops(model, layers)
    if variant in PEERS:
        return prune_with_peer(model, PEERS[variant], layers, chosen, seed)
    if variant in GLOBAL:
        return prune_with_peer(model, GLOBAL[variant], layers, chosen, seed, half)
    criterion, reconstruction, allocation = OURS[variant]
    strong = reconstruction.aims_at_original
    return thinet.prune(
        model,
        chosen.batches(64),
        0.5,
        criterion,
        reconstruction,
        layers,
        target=f"flops:{half / cost(model, SHAPE).flops}" if allocation == "error" else None,
        allocation=allocation,
        recalibrate_bn="each" if strong else "never",
        sampling=Sampling(positions=None if strong else 256, seed=seed),
    ).model


def pruned_layers(model: nn.Module) -> list[str]:
    """Of a residual network the first convolution of each block, of others all inner ones."""
    found = inner(model)
    blocks = [name for name in found if name.startswith("layer")]
    return blocks or found


def half_flops(model: nn.Module, layers: list[str]) -> int:
    """The FLOPs that are left when each of the layers keeps half of its filters."""
    image = torch.zeros(2, *SHAPE)
    result = thinet.prune(model, [image], 0.5, "weight_sum", "none", layers, recalibrate_bn="never")
    return result.after.flops


def measure(
    model: nn.Module, variant: str, data: Data, images: int, seed: int, epochs: int, per_epoch: int
) -> dict[str, object]:
    """Prune, recalibrate, fine-tune; the test accuracy in percent after each."""
    start = time.process_time()
    slim = prune(model, variant, data, images, seed) if variant != "unpruned" else model
    seconds = time.process_time() - start
    again = recalibrated(slim, data.calibration(images, seed)) if variant != "unpruned" else slim
    costs = cost(slim, SHAPE)
    plain = accuracy(slim, data)
    before = accuracy(again, data)
    tuned = accuracy(finetune(again, data, epochs, per_epoch, seed), data)
    return {
        "test_plain": plain,
        "test": before,
        "test_finetuned": tuned,
        "mflops": costs.flops / 1e6,
        "params": costs.params,
        "seconds": seconds,
    }


def table(rows: list[dict[str, str]]) -> str:
    """Markdown: one line a variant, mean and spread over seeds."""
    names = list(dict.fromkeys(row["variant"] for row in rows))
    columns = ("test_plain", "test", "test_finetuned")
    lines = [
        "| variant | as cut | recalibrated | fine-tuned | MFLOPs | params | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        mine = [row for row in rows if row["variant"] == name]
        cells = [mean_and_spread([float(row[column]) for row in mine]) for column in columns]
        flops = mean_and_spread([float(row["mflops"]) for row in mine]).split(" ")[0]
        params = sum(int(row["params"]) for row in mine) // len(mine)
        lines.append(f"| {name} | {' | '.join(cells)} | {flops} | {params:,} | {len(mine)} |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is missing in ``results.csv``; then table and figure."""
    parser = arguments(__doc__, HERE)
    known = [*OURS, *PEERS, *GLOBAL, "unpruned"]
    parser.add_argument("--variants", nargs="+", default=list(MAIN), choices=known)
    parser.add_argument("--images", type=int, default=512, help="for calibration")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--finetune-images", type=int, default=5_000, help="an epoch, of 45,000")
    options = parsed(
        parser, words, variants=["tp l1", "thinet scale", "unpruned"], images=16, epochs=1,
        finetune_images=16, seeds=[0],
    )  # fmt: skip
    path = options.out / "results.csv"
    setting = {
        "model": options.model, "images": options.images, "epochs": options.epochs,
        "finetune_images": options.finetune_images,
    }  # fmt: skip
    if not options.draw:
        model, data = inputs(options)
        for seed in options.seeds:
            for variant in options.variants:
                mark = {**setting, "variant": variant, "seed": seed}
                if has_row(read_rows(path), mark):
                    continue
                found = measure(
                    model, variant, data, options.images, seed, options.epochs,
                    options.finetune_images,
                )  # fmt: skip
                append_row(path, {**mark, **found})
                print(mark | found, flush=True)
    found = [row for row in read_rows(path) if has_row([row], {**setting, "model": row["model"]})]
    text = ""
    for name in dict.fromkeys(row["model"] for row in found):
        rows = [row for row in found if row["model"] == name]
        text += f"\n**{NAMES.get(name, name)}**\n\n{table(rows)}\n"
        draw(rows, options.out / ("figure.png" if name == "resnet56" else f"figure_{name}.png"))
    print(text)
    if options.out == HERE:
        splice(HERE / "README.md", text)


if __name__ == "__main__":
    main()

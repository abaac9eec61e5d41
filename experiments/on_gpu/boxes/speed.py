"""What looking at a layer and pruning a network cost, in plain forward passes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

import thinet
from experiments.on_gpu.context import Context
from experiments.oneshot_speed import run as study
from experiments.statistics_speed import run as looks
from experiments.timing import Row, synchroniser
from thinet.models.cifar_resnet import resnet20
from thinet.pruning.criteria.thinet import ThiNet
from thinet.surgery import trace

TINY = {"resnet20": resnet20}


def statistics(context: Context) -> None:
    """Each layer's passes take turns with plain ones up to the same layer."""
    rounds, patience = (1, 0.0) if context.smoke else (15, 0.7)
    size, batch = (16, 2) if context.smoke else (224, 32)
    for name, build in (TINY if context.smoke else looks.NETWORKS).items():
        layers = ["layer1.0.conv1"] if context.smoke else looks.LAYERS[name]
        torch.manual_seed(0)
        network = build(num_classes=1000, image_size=size).to(context.device).eval()
        images = torch.randn(batch, 3, size, size, device=context.device)
        graph = trace(network, images[:1])
        for layer in layers:
            group = graph.group_of(layer)
            key: Row = {"network": name, "images": batch}
            context.cell(
                key,
                lambda network=network, group=group, images=images: looks.measure(
                    network, group, images, rounds, patience
                ),
                needs=3,
            )


def oneshot(context: Context) -> None:
    """VGG-16 and ResNet-50, whole: plain passes, and the share that choosing filters takes."""
    size, count, batch = (16, 4, 2) if context.smoke else (224, 256, 64)
    for name, build in (TINY if context.smoke else study.NETWORKS).items():
        torch.manual_seed(0)
        network = build(num_classes=1000, image_size=size).to(context.device)
        batches = torch.randn(count, 3, size, size, device=context.device).split(batch)
        rows: list[Row] = []

        def measure(network=network, batches=batches, rows=rows, name=name) -> Row:  # type: ignore[no-untyped-def]
            rows += study.measure(name, network, batches, 1 if context.smoke else 2)
            return _flat(rows)

        def choosing(network=network, batches=batches) -> Row:  # type: ignore[no-untyped-def]
            return _selection(context, network, batches)

        context.cell({"network": name, "part": "passes"}, measure, needs=12)
        context.cell({"network": name, "part": "selection"}, choosing, needs=6)


def _flat(rows: list[Row]) -> Row:
    """The rows of the ways side by side."""
    found: Row = {key: rows[0][key] for key in ("images", "batch", "layers", "flops_left")}
    for row in rows:
        for key in ("passes", "passes_spread", "seconds"):
            found[f"{row['way']}_{key}"] = row[key]
    return found


def _selection(
    context: Context, network: torch.nn.Module, batches: tuple[torch.Tensor, ...]
) -> Row:
    """Seconds of a one-shot pruning, and of them those in ``ThiNet.rank``."""
    finish = synchroniser(context.device)
    with _timed(finish) as spent:
        began = time.perf_counter()
        thinet.prune(network, batches, 0.5, layers="inner", batch_size=len(batches[0]))
        finish()
        whole = time.perf_counter() - began
    row: Row = {"seconds": whole, "selection_seconds": sum(spent), "share": sum(spent) / whole}
    if context.device.type == "cuda":
        row["peak_gib"] = torch.cuda.max_memory_allocated(context.device) / 2**30
    return row


@contextmanager
def _timed(finish) -> Iterator[list[float]]:  # type: ignore[no-untyped-def]
    """Seconds of every call of ``ThiNet.rank`` inside."""
    original = ThiNet.rank
    spent: list[float] = []

    def rank(self: ThiNet, *args: object, **settings: object) -> object:
        finish()
        began = time.perf_counter()
        found = original(self, *args, **settings)  # type: ignore[arg-type]
        finish()
        spent.append(time.perf_counter() - began)
        return found

    ThiNet.rank = rank  # type: ignore[assignment, method-assign]
    try:
        yield spent
    finally:
        ThiNet.rank = original  # type: ignore[method-assign]

"""Every criterion with every reconstruction on the device, beside the same on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import thinet
from experiments.on_gpu.context import Context
from experiments.timing import Row
from thinet.models.small_vgg import vgg_small
from thinet.pruning.criteria import Criterion
from thinet.pruning.prune import PruneResult
from thinet.pruning.reconstruction import Reconstruction
from thinet.pruning.registry import names
from thinet.surgery import difference

LAYERS = ["features.3", "features.10"]
CPU = torch.device("cpu")
WAYS = ("float32", "bfloat16", "float16", "float32, no TF32")


def criteria(context: Context) -> None:
    """First all in float32, then half precision and exact float32 as far as the time goes."""
    count, size = (8, 8) if context.smoke else (64, 32)
    torch.manual_seed(0)
    network = vgg_small(10, size, **({"widths": (4, 8)} if context.smoke else {})).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    images, labels = torch.randn(count, 3, size, size), torch.arange(count) % 10
    layers = ["features.0"] if context.smoke else LAYERS
    wanted: dict[tuple[str, str], PruneResult] = {}
    for way in WAYS[:2] if context.smoke else WAYS:
        for criterion in names("criteria", Criterion):
            for reconstruction in names("reconstruction", Reconstruction):
                if way != "float32" and reconstruction != "refit":
                    continue
                pair = criterion, reconstruction
                key: Row = {"criterion": criterion, "reconstruction": reconstruction, "way": way}

                def task(pair: tuple[str, str] = pair, way: str = way) -> Row:
                    if pair not in wanted:
                        wanted[pair] = _prune(network, images, labels, pair, layers)
                    return _beside(
                        wanted[pair], context, network, images, labels, pair, layers, way
                    )

                context.cell(key, task)


def _prune(
    network: nn.Module, images: Tensor, labels: Tensor, pair: tuple[str, str], layers: list[str]
) -> PruneResult:
    return thinet.prune(network, [(images, labels)], 0.5, *pair, layers)


def _beside(
    wanted: PruneResult,
    context: Context,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    pair: tuple[str, str],
    layers: list[str],
    way: str,
) -> Row:
    """How far the device's choice and network are from the CPU's, which is in float32."""
    dtype = getattr(torch, way.partition(",")[0])
    moved = copy.deepcopy(network).to(context.device, dtype)
    with tf32(convolutions=None if "no TF32" not in way else False):
        found = _prune(moved, images.to(context.device, dtype), labels.to(context.device), pair,
                       layers)  # fmt: skip
    stayed = next(found.model.parameters())
    same = [
        len(set(a.kept) & set(b.kept)) / len(a.kept)
        for a, b in zip(wanted.layers, found.layers, strict=True)
    ]
    slim = copy.deepcopy(found.model).to(CPU, torch.float32)
    return {
        "identical": all(
            a.kept == b.kept for a, b in zip(wanted.layers, found.layers, strict=True)
        ),
        "same_filters": sum(same) / len(same),
        "output_differs": difference(wanted.model, slim, images),
        "on_device": stayed.device.type == context.device.type and stayed.dtype == dtype,
    }


@contextmanager
def tf32(convolutions: bool | None = None, products: bool | None = None) -> Iterator[None]:
    """TF32 allowed or not, where not None; afterwards as before."""
    backends: list[Any] = [torch.backends.cudnn.conv, torch.backends.cuda.matmul]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend, allowed in zip(backends, (convolutions, products), strict=True):
            if allowed is not None:
                backend.fp32_precision = "tf32" if allowed else "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision

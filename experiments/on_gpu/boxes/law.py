"""Zeroing equals removing: how nearly, in each kind of arithmetic, and is a right cut accepted?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from experiments.on_gpu.boxes.criteria import tf32
from experiments.on_gpu.context import Context
from experiments.timing import Row
from thinet.models.cifar_resnet import resnet20
from thinet.models.resnet import resnet50
from thinet.models.small_vgg import vgg_small
from thinet.models.vgg import vgg16, vgg16_bn
from thinet.surgery import difference, masked, remove_, shared_copy, trace, try_cut
from thinet.widths.resolve import resolve_counts, resolve_layers

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "vgg16_bn": vgg16_bn, "resnet50": resnet50, "vgg16": vgg16,
}  # fmt: skip
TINY: dict[str, Callable[..., nn.Module]] = {"vgg_small": vgg_small, "resnet20": resnet20}
WAYS: dict[str, dict[str, Any]] = {
    "float32, as it comes": {},
    "TF32 nowhere": {"convolutions": False, "products": False},
    "TF32 convolutions": {"convolutions": True, "products": False},
    "TF32 everywhere": {"convolutions": True, "products": True},
    "autocast bfloat16": {"autocast": torch.bfloat16},
    "autocast float16": {"autocast": torch.float16},
    "bfloat16 network": {"dtype": torch.bfloat16},
    "float16 network": {"dtype": torch.float16},
}


def law(context: Context) -> None:
    """A row for each network and way; the widths are halved in all inner layers."""
    size, batch = (32, 2) if context.smoke else (224, 8)
    for name, build in (TINY if context.smoke else NETWORKS).items():
        torch.manual_seed(0)
        network = build(num_classes=10, image_size=size).eval()
        if not context.smoke:
            network = network.to(context.device)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # as after training, not all one and zero
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
        images = torch.randn(batch, 3, size, size).to(context.device)
        graph = trace(network, images[:1])
        layers, _ = resolve_layers(graph, "inner")
        counts = resolve_counts(graph, layers, 0.5, 1)
        for way, settings in WAYS.items():
            key: Row = {"network": name, "arithmetic": way, "groups": len(counts)}

            def task(
                network: nn.Module = network,
                graph: Any = graph,
                counts: dict[str, int] = counts,
                images: Tensor = images,
                settings: dict[str, Any] = settings,
            ) -> Row:
                return _judge(network, graph, counts, images, **settings)

            context.cell(key, task, needs=2)


def _judge(
    network: nn.Module,
    graph: Any,
    counts: dict[str, int],
    images: Tensor,
    convolutions: bool | None = None,
    products: bool | None = None,
    autocast: torch.dtype | None = None,
    dtype: torch.dtype | None = None,
) -> Row:
    """The difference in this arithmetic, and what :func:`try_cut` says within it."""
    if dtype is not None:
        network, images = copy.deepcopy(network).to(dtype), images.to(dtype)
    # Were it the first units that stay, sums would be taken in the same order: no rounding shows.
    draw = torch.Generator().manual_seed(0)
    keep = {
        name: torch.randperm(graph.groups[name].units, generator=draw)[:count].sort()[0].tolist()
        for name, count in counts.items()
    }
    inside = torch.autocast(images.device.type, autocast) if autocast else nullcontext()
    with tf32(convolutions, products), inside:
        slim = remove_(shared_copy(network), graph, keep)
        far = difference(masked(network, graph, keep), slim, images)
        said = try_cut(network, graph, counts, images)
    return {"difference": far, "accepted": said is None, "said": said}

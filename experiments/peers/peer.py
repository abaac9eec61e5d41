"""Pruning with Torch-Pruning, so that the same layers shrink to the same cost as with thinet."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.cifar import BATCH, Images
from thinet.metrics import cost
from thinet.surgery import evaluating

IMPORTANCES: dict[str, Callable[[Any], Any]] = {
    "l1": lambda known: known.GroupMagnitudeImportance(p=1, group_reduction="first"),
    "l2": lambda known: known.GroupMagnitudeImportance(p=2, group_reduction="first"),
    "group_norm": lambda known: known.GroupMagnitudeImportance(p=2),
    "fpgm": lambda known: known.FPGMImportance(),
    "taylor": lambda known: known.GroupTaylorImportance(),
    "lamp": lambda known: known.LAMPImportance(),
    "bn_scale": lambda known: known.BNScaleImportance(),
    "random": lambda known: known.RandomImportance(),
}
"""Made from ``torch_pruning.importance``, which is imported when it is used. ``l1``
and ``l2`` look at the producing convolution alone, as those papers do; ``group_norm`` is
Torch-Pruning's default and adds the BatchNorm and the reading convolution."""
HALVINGS = 10
"""Steps of the search for the ratio of a global ranking."""


def prune_with_peer(
    model: nn.Module,
    importance: str,
    layers: Collection[str],
    images: Images,
    seed: int,
    flops: int | None = None,
) -> nn.Module:
    """Prune a copy.

    Args:
        model: Left as it was.
        importance: A key of :data:`IMPORTANCES`.
        layers: Names of the convolutions that lose filters; all others are ignored.
        images: For gradients, if the importance looks at them.
        seed: For ``random``.
        flops: None to take half of every layer; or the FLOPs down to which the filters of all
            layers, ranked together, go.
    """
    gradients = _gradients(model, images) if importance == "taylor" else {}
    if flops is None:
        return _cut(model, importance, layers, gradients, images, seed, 0.5, together=False)
    low, high = 0.0, 1.0
    best: nn.Module | None = None
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        slim = _cut(model, importance, layers, gradients, images, seed, ratio, together=True)
        if cost(slim, tuple(images.pixels.shape[1:])).flops > flops:
            low = ratio
        else:
            best, high = slim, ratio
    if best is None:
        raise ValueError(f"a global ranking by {importance} does not get down to {flops} FLOPs")
    return best


def _cut(
    model: nn.Module,
    importance: str,
    layers: Collection[str],
    gradients: Mapping[str, Tensor],
    images: Images,
    seed: int,
    ratio: float,
    together: bool,
) -> nn.Module:
    import torch_pruning as tp

    slim = copy.deepcopy(model)
    example, _ = next(images.batches(2))
    ignored = [
        module
        for name, module in slim.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and name not in layers
    ]
    torch.manual_seed(seed)
    pruner = tp.pruner.BasePruner(
        slim,
        example,
        importance=IMPORTANCES[importance](tp.importance),
        global_pruning=together,
        pruning_ratio=ratio,
        ignored_layers=ignored,
    )
    for name, parameter in slim.named_parameters():
        parameter.grad = gradients.get(name)
    pruner.step()
    slim.zero_grad()
    return slim.eval().requires_grad_(True)


def _gradients(model: nn.Module, images: Images) -> dict[str, Tensor]:
    """The gradient of the mean loss over the images, by parameter."""
    made = copy.deepcopy(model).requires_grad_(True)
    with evaluating(made):
        for batch, labels in images.batches(BATCH):
            loss = F.cross_entropy(made(batch), labels, reduction="sum") / len(images)
            loss.backward()
    return {name: p.grad for name, p in made.named_parameters() if p.grad is not None}

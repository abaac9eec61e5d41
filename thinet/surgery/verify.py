"""The law of surgery: zeroing channels and removing them give the same output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thinet.surgery.graph import ChannelGraph
from thinet.surgery.labels import among
from thinet.surgery.modes import evaluating
from thinet.surgery.slim import shared_copy


@torch.no_grad()
def masked(network: nn.Module, graph: ChannelGraph, keep: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy of full size in which nobody reads the channels that would be removed.

    It shares all other tensors with ``network``.

    The input weights that read them are set to zero, so biases and BatchNorm shifts of removed
    channels have no effect either.
    """
    gone = graph.removed_labels(keep)
    tensors = dict(network.named_parameters())
    zeroed: dict[str, Tensor] = {}
    for use in graph.uses:
        if use.role == "consume":
            dead = torch.nonzero(among(use.labels, gone)).flatten()
            weight = zeroed.get(use.tensor, tensors[use.tensor])
            if len(dead):
                weight = weight.index_fill(use.axis, dead.to(weight.device), 0.0)
                zeroed[use.tensor] = weight
    replaced = {
        id(tensors[name]): nn.Parameter(weight, requires_grad=tensors[name].requires_grad)
        for name, weight in zeroed.items()
    }
    return shared_copy(network, replaced=replaced)


@torch.no_grad()
def difference(left: nn.Module, right: nn.Module, images: Tensor) -> float:
    """Largest difference of the two outputs in ``eval()`` mode, relative to the largest output.

    Of several outputs the worst counts, each measured by its own scale; NaN if one is not finite.

    Raises:
        RuntimeError: If the outputs have other shapes, as those of a wrongly cut network may have.
    """
    found = []
    for a, b in zip(_outputs(left, images), _outputs(right, images), strict=True):
        if a.shape != b.shape:  # or broadcasting would compare them all the same
            raise RuntimeError(f"an output has shape {tuple(b.shape)} instead of {tuple(a.shape)}")
        if a.is_meta:  # shapes are all there is to compare
            continue
        scale = a.abs().max().clamp_min(torch.finfo(a.dtype).tiny)
        found.append((a - b).abs().max() / scale)
    return float(torch.stack(found).max()) if found else 0.0


def _outputs(network: nn.Module, images: Tensor) -> list[Tensor]:
    with evaluating(network):
        leaves = tree_leaves(network(images))
    found = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not found:
        raise RuntimeError("it returns no tensors of floating-point numbers")
    return found

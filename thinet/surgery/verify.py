"""The law of surgery: zeroing channels and removing them give the same output."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thinet.errors import ThinetError
from thinet.surgery.graph import ChannelGraph
from thinet.surgery.modes import evaluating
from thinet.surgery.slim import remove_, shared_copy

TOLERANCE = 1e-4
"""Largest relative difference between zeroing and removing that float32 rounding explains."""


@torch.no_grad()
def masked(network: nn.Module, graph: ChannelGraph, keep: dict[str, list[int]]) -> nn.Module:
    """A copy of full size in which nobody reads the channels that would be removed.

    The input weights that read them are set to zero, so biases and BatchNorm shifts of removed
    channels have no effect either.
    """
    gone = graph.removed_labels(keep)
    twin = copy.deepcopy(network)
    tensors = dict(twin.named_parameters())
    for use in graph.uses:
        if use.role == "consume":
            dead = torch.nonzero(torch.isin(use.labels, gone)).flatten()
            weight = tensors[use.tensor]
            weight.index_fill_(use.axis, dead.to(weight.device), 0.0)
    return twin


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
        scale = a.abs().max().clamp_min(torch.finfo(a.dtype).tiny)
        found.append((a - b).abs().max() / scale)
    return float(torch.stack(found).max())


def _outputs(network: nn.Module, images: Tensor) -> list[Tensor]:
    with evaluating(network):
        leaves = tree_leaves(network(images))
    found = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not found:
        raise RuntimeError("it returns no tensors of floating-point numbers")
    return found


def check_plan(
    network: nn.Module, graph: ChannelGraph, counts: Mapping[str, int], images: Tensor
) -> None:
    """Try a plan on a copy before anything is cut: zeroing must equal removing.

    Any filters do for the trial, since the law does not depend on which go.

    Args:
        network: The network to prune.
        graph: Its trace.
        counts: Kept filters of each layer.
        images: A batch of at least one image.

    Raises:
        ThinetError: If the cut network does not run or gives another output, or a weight is not
            finite.
    """
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if not bool(torch.isfinite(tensor).all()):  # the trial might cut just this one away
            raise ThinetError(
                f"{name} holds values that are not finite (NaN or infinite): give other weights, "
                "or train the network again with a smaller learning rate."
            )
    keep = {name: list(range(graph.layers[name].filters))[-n:] for name, n in counts.items()}
    slim = remove_(shared_copy(network), graph, keep)
    try:
        off = difference(masked(network, graph, keep), slim, images)
        _check_training(network, slim, images)
    # The network's own code may object to its new sizes with any exception.
    except Exception as error:
        brief = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ThinetError(
            f"this network does not run once filters are removed ({brief}): "
            "it holds sizes written as numbers; prune other layers with layers=[...]."
        ) from error
    if not off <= TOLERANCE:
        raise ThinetError(
            f"removing filters changes this network's output by {off:.1e} more than zeroing them: "
            "channels are used in a way that is not understood; "
            "prune other layers with layers=[...]."
        )


def _check_training(network: nn.Module, slim: nn.Module, images: Tensor) -> None:
    """Raise what ``slim`` raises in ``train()`` mode, if ``network`` raises nothing.

    A branch that runs in training alone (an auxiliary classifier) is not in the trace.
    """
    if len(images) < 2:
        return  # BatchNorm has no variance
    error = _training_error(slim, images)
    if error is not None and _training_error(network, images) is None:
        raise error


@torch.no_grad()
def _training_error(network: nn.Module, images: Tensor) -> Exception | None:
    twin = copy.deepcopy(network).train()  # its running statistics change
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        try:
            twin(images)
        except Exception as error:
            return error
    return None

"""The law of surgery: zeroing channels and removing them give the same output."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from thinet.surgery.graph import ChannelGraph


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

    Raises:
        RuntimeError: If one of them does not run, as a wrongly cut network does not.
    """
    outputs = []
    for network in (left, right):
        training = {module: module.training for module in network.modules()}
        outputs.append(network.eval()(images))
        for module, mode in training.items():
            module.training = mode
    scale = outputs[0].abs().max().clamp_min(torch.finfo(outputs[0].dtype).tiny)
    return float((outputs[0] - outputs[1]).abs().max() / scale)

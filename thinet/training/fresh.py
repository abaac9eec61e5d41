"""A slim network with random weights that suit its widths."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from thinet.surgery import remove_, trace


@torch.no_grad()
def cut_fresh_(network: nn.Module, counts: Mapping[str, int], image: Tensor) -> nn.Module:
    """Cut a randomly initialised network and give its weights the size that suits their new inputs.

    A weight drawn for 512 inputs is too small for 256: each tensor is multiplied by the square
    root of the ratio of its inputs per output, which leaves the variance of every layer's output as
    the initialisation chose it (He et al. 2015).

    Args:
        network: At full width; changed in place.
        counts: Units that stay in each group.
        image: ``(1, C, H, W)``, to trace with.

    Returns:
        ``network``.
    """
    before = {
        name: weight[0].numel() for name, weight in network.named_parameters() if weight.dim() > 1
    }
    graph = trace(network, image)
    remove_(network, graph, {name: range(count) for name, count in counts.items()})
    for name, weight in network.named_parameters():
        if weight.dim() > 1:
            weight.mul_((before[name] / weight[0].numel()) ** 0.5)
    return network

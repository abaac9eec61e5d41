"""FLOPs, parameters and size of a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from thinet.surgery import shared_copy

_COUNTED = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True)
class Cost:
    """What one image costs.

    Attributes:
        flops: 2 x MACs of convolutions and linear layers, the paper's convention; no bias,
            normalisation, activation or pooling.
        macs: Multiply-accumulates, half of ``flops``.
        params: All parameters.
        weights: Weights of convolutions and linear layers alone (what the ThiNet papers count for
            VGG-16).
        size_mb: Parameters and buffers in MiB, as they are stored.
    """

    flops: int
    macs: int
    params: int
    weights: int
    size_mb: float


def _on_meta(network: nn.Module, input_shape: tuple[int, ...]) -> FlopCounterMode:
    twin = shared_copy(network, "meta").eval()
    counter = FlopCounterMode(display=False)
    dtype = next(iter(network.parameters())).dtype
    with torch.no_grad(), counter:
        twin(torch.empty(1, *input_shape, device="meta", dtype=dtype))
    return counter


def cost(network: nn.Module, input_shape: tuple[int, ...]) -> Cost:
    """Cost of a network for one image.

    Counted by :class:`torch.utils.flop_counter.FlopCounterMode` on a copy without data, so it takes
    neither arithmetic nor memory.

    Args:
        network: Any network that runs on the ``meta`` device.
        input_shape: ``(C, H, W)``.
    """
    flops = _on_meta(network, input_shape).get_total_flops()
    stored = [*network.parameters(), *network.buffers()]
    return Cost(
        flops=flops,
        macs=flops // 2,
        params=sum(tensor.numel() for tensor in network.parameters()),
        weights=sum(
            module.weight.numel() for module in network.modules() if isinstance(module, _COUNTED)
        ),
        size_mb=sum(tensor.numel() * tensor.element_size() for tensor in stored) / 2**20,
    )


def layer_costs(network: nn.Module, input_shape: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """FLOPs and parameters of each convolution and linear layer, by module path.

    Args:
        network: See :func:`cost`.
        input_shape: ``(C, H, W)``.
    """
    counts = _on_meta(network, input_shape).get_flop_counts()
    root = type(network).__name__
    result = {}
    for name, module in network.named_modules():
        if isinstance(module, _COUNTED):
            flops = sum(counts.get(f"{root}.{name}", {}).values())
            result[name] = (int(flops), sum(tensor.numel() for tensor in module.parameters()))
    return result

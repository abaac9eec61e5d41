"""FLOPs, parameters and size of a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from thinet.base.errors import ThinetError, first_line
from thinet.base.values import image_shape
from thinet.surgery import check_network, shared_copy

_COUNTED = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True)
class Cost:
    """What one image costs.

    Attributes:
        flops: 2 x MACs of convolutions and linear layers, the paper's convention; no bias,
            normalisation, activation or pooling.
        macs: Multiply-accumulates, half of ``flops``.
        params: All parameters.
        weights: Parameters without the biases of convolutions and linear layers, which is what the
            ThiNet papers count (VGG-16 138.34 M, ResNet-50 25.56 M).
        size_mb: Parameters and buffers in MiB, as they are stored.
    """

    flops: int
    macs: int
    params: int
    weights: int
    size_mb: float


@torch.no_grad()
def _count(network: nn.Module, input_shape: tuple[int, ...]) -> FlopCounterMode:
    parameter = next(network.parameters(), torch.zeros(()))
    counter, shape = FlopCounterMode(display=False), (1, *input_shape)
    try:
        with counter:
            images = torch.empty(shape, device="meta", dtype=parameter.dtype)
            shared_copy(network, "meta").eval()(images)
    except Exception:  # its code makes tensors on a device of its own, or looks at their values
        counter = FlopCounterMode(display=False)
        try:
            with counter:
                images = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
                shared_copy(network).eval()(images)
        except Exception as error:  # whatever the network's own code raises
            raise ThinetError(
                f"the network does not run on images of shape {shape} "
                f"({first_line(error)}): pass the input_shape that it was made for."
            ) from error
    return counter


def cost(network: nn.Module, input_shape: tuple[int, ...]) -> Cost:
    """Cost of a network for one image.

    Counted by :class:`torch.utils.flop_counter.FlopCounterMode` on a copy without data, so it takes
    neither arithmetic nor memory; a network that does not run on the ``meta`` device runs once.

    Args:
        network: Any network.
        input_shape: ``(C, H, W)``.

    Raises:
        ThinetError: If it is no network, or does not run on such an image.
    """
    check_network(network)
    input_shape = image_shape(input_shape)
    flops = _count(network, input_shape).get_total_flops()
    stored = [*network.parameters(), *network.buffers()]
    params = sum(tensor.numel() for tensor in network.parameters())
    biases = {  # one that several layers share is one among the parameters, too
        bias: bias.numel()
        for module in network.modules()
        if isinstance(module, _COUNTED) and (bias := module._parameters.get("bias")) is not None
    }
    return Cost(
        flops=flops,
        macs=flops // 2,
        params=params,
        weights=params - sum(biases.values()),
        size_mb=sum(tensor.numel() * tensor.element_size() for tensor in stored) / 2**20,
    )


def layer_costs(network: nn.Module, input_shape: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """FLOPs and parameters of each convolution and linear layer, by module path.

    Args:
        network: See :func:`cost`.
        input_shape: ``(C, H, W)``.
    """
    counts = _count(network, input_shape).get_flop_counts()
    root = type(network).__name__
    result = {}
    for name, module in network.named_modules():
        if isinstance(module, _COUNTED):
            flops = sum(counts.get(f"{root}.{name}", {}).values())
            result[name] = (int(flops), sum(tensor.numel() for tensor in module.parameters()))
    return result

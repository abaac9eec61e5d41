"""What binarisation has made of a network: bits, bytes, operations, and how fast it runs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from thinet.artifacts.openvino import deployed
from thinet.artifacts.store import dump_state
from thinet.base.errors import ThinetError
from thinet.base.messages import say
from thinet.metrics import LayerCost, latencies_ms, layer_costs
from thinet.quantization.packed import PackedConv2d, PackedLinear, packed_layers
from thinet.quantization.planning import Conversion
from thinet.quantization.theory import theoretical_speedup
from thinet.report.sections.quantization import LayerBits, QuantizationDetails, Speed
from thinet.run.setup import Setup


def compare(
    full: nn.Module, network: nn.Module, name: str, conversion: Conversion, setup: Setup
) -> QuantizationDetails:
    """Compare a packed network with the one in full precision.

    Args:
        full: In full precision, with any weights, on the CPU.
        network: Packed, on the CPU.
        name: Of the quantizer's option.
        conversion: What was done.
        setup: Of the run.
    """
    layers, costs = packed_layers(network), layer_costs(network, tuple(setup.data.input_shape))
    first = next(iter(layers.values()))
    speeds, difference, why_not = _speeds(full, network, setup)
    return QuantizationDetails(
        quantizer=name,
        order=first.quantizer.order,
        scale=first.quantizer.scale,
        layers=_rows(network, conversion, costs),
        norms_added=len(conversion.norms),
        relus_removed=len(conversion.removed),
        bytes_full=len(dump_state(full)),
        bytes_packed=len(dump_state(network)),
        factor=_factor(layers, costs),
        speeds=speeds,
        deployed_difference=difference,
        why_not_deployed=why_not,
    )


def _rows(
    network: nn.Module, conversion: Conversion, costs: Mapping[str, LayerCost]
) -> tuple[LayerBits, ...]:
    layers = packed_layers(network)
    rows = []
    for one in conversion.decisions:
        cost, module = costs.get(one.layer), network.get_submodule(one.layer)
        layer = layers.get(one.layer)
        own = list(module.parameters(recurse=False))
        if layer is not None:
            weights, bits = torch.Size(layer.weight_shape).numel(), layer.parameter_bits()
        else:
            weights = max((tensor.numel() for tensor in own if tensor.dim() > 1), default=0)
            bits = sum(8 * tensor.numel() * tensor.element_size() for tensor in own)
        rows.append(
            LayerBits(
                layer=one.layer,
                kind=one.kind,
                reason=one.reason,
                weights=weights,
                bits=bits,
                binary_ops=cost.binary_ops if cost else 0,
                flops=cost.flops if cost else 0,
            )
        )
    return tuple(rows)


def _factor(
    layers: Mapping[str, PackedConv2d | PackedLinear], costs: Mapping[str, LayerCost]
) -> float:
    """The paper's speed-up, of all binary layers together."""
    before = after = 0.0
    for path, layer in layers.items():
        work = costs[path].binary_ops / layer.quantizer.order
        channels, area = layer.weight_shape[1], torch.Size(layer.weight_shape[2:]).numel()
        before += work
        after += work / theoretical_speedup(layer.quantizer.order, channels, area)
    return before / after


def _speeds(
    full: nn.Module, network: nn.Module, setup: Setup
) -> tuple[tuple[Speed, ...], float | None, str]:
    """Latencies on the CPU, one image at a time, and how exactly OpenVINO computes the same.

    A network that OpenVINO does not take is trained and saved all the same: why is said instead.
    """
    shape, threads = tuple(setup.data.input_shape), torch.get_num_threads()
    eager, bits = latencies_ms([full, network], shape)
    speeds = [
        Speed("PyTorch, full precision", eager, threads),
        Speed("PyTorch, from the bits", bits, threads),
    ]
    try:
        plain = deployed(full, shape, threads)
        binary = deployed(network, shape, threads, setup.data.examples())
    except ThinetError as error:
        say(f"the speed of a 1-bit engine is not measured: {error}")
        return tuple(speeds), None, str(error)
    speeds += [
        Speed("OpenVINO, full precision", plain.latency_ms(), threads),
        Speed("OpenVINO, 1 bit", binary.latency_ms(), threads),
    ]
    return tuple(speeds), binary.difference, ""

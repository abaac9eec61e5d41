"""FLOPs, 1-bit operations, parameters, bits and size of a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from thinet.base.errors import ThinetError, first_line
from thinet.base.values import image_shape
from thinet.surgery import check_network, shared_copy

_COUNTED = (nn.modules.conv._ConvNd, nn.Linear)
Shape = tuple[int, ...]


@runtime_checkable
class DeclaresCost(Protocol):
    """A module that says itself what it costs, where it is not what its tensors seem to cost.

    A binary layer, for example, is trained with tensors of 32 bits and computes its sums as
    floating-point convolutions, of which nothing is left once it is deployed. What is counted
    within it is then left out, that of modules inside it too, and what it says is taken instead.
    Shapes are those of one call, batch of 1 included.
    """

    def binary_ops(self, input_shape: Shape, output_shape: Shape) -> int:
        """1-bit multiply-accumulates (XNOR and popcount) of a call."""

    def float_macs(self, input_shape: Shape, output_shape: Shape) -> int:
        """Multiply-accumulates of floating-point numbers that remain, such as scaling."""

    def parameter_bits(self) -> int:
        """Bits of its parameters and of those of modules inside it."""


@runtime_checkable
class KeepsParametersOtherwise(Protocol):
    """A module with parameters that are no ``nn.Parameter``, such as weights packed to bits."""

    def parameters_kept_otherwise(self) -> int:
        """How many of its own there are, without those of modules inside it; none is a bias."""


@dataclass(frozen=True)
class Cost:
    """What one image costs.

    Attributes:
        flops: 2 x MACs of convolutions and linear layers, the paper's convention; no bias,
            normalisation, activation or pooling.
        macs: Multiply-accumulates, half of ``flops``.
        params: All parameters, packed ones included.
        weights: Parameters without the biases of convolutions and linear layers, which is what the
            ThiNet papers count (VGG-16 138.34 M, ResNet-50 25.56 M).
        size_mb: Parameters and buffers in MiB, as they are stored.
        binary_ops: 1-bit multiply-accumulates; not in ``flops``. See :class:`DeclaresCost`.
        bits: That the parameters take, each in as many as it needs: 32 for one in float32.
    """

    flops: int
    macs: int
    params: int
    weights: int
    size_mb: float
    binary_ops: int
    bits: int


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs for one image.

    Attributes:
        flops: See :class:`Cost`.
        params: All its parameters.
        binary_ops: See :class:`Cost`.
    """

    flops: int = 0
    params: int = 0
    binary_ops: int = 0


@dataclass
class _Count:
    """Of one pass.

    Attributes:
        counter: What the operations are; also those within modules that declare their own cost.
        hidden: FLOPs of those.
        declared: FLOPs and 1-bit operations that they declare instead, by module path.
    """

    counter: FlopCounterMode = field(default_factory=lambda: FlopCounterMode(display=False))
    hidden: int = 0
    declared: dict[str, tuple[int, int]] = field(default_factory=dict)


@torch.no_grad()
def _count(network: nn.Module, input_shape: Shape) -> _Count:
    parameter = next(network.parameters(), torch.zeros(()))
    shape = (1, *input_shape)
    try:
        images = torch.empty(shape, device="meta", dtype=parameter.dtype)
        return _pass(shared_copy(network, "meta"), images)
    except Exception:  # its code makes tensors on a device of its own, or looks at their values
        try:
            images = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
            return _pass(shared_copy(network), images)
        except Exception as error:  # whatever the network's own code raises
            raise ThinetError(
                f"the network does not run on images of shape {shape} "
                f"({first_line(error)}): pass the input_shape that it was made for."
            ) from error


def _pass(copy: nn.Module, images: Tensor) -> _Count:
    count = _Count()
    _listen_(copy, count)
    with count.counter:
        copy.eval()(images)
    return count


def _listen_(copy: nn.Module, count: _Count) -> None:
    """Have calls of modules noted that declare their cost; of nested ones the outermost."""
    inside: list[int] = []  # FLOPs when each of the calls under way began

    def begin(*_: object) -> None:
        inside.append(count.counter.get_total_flops())

    def end(path: str, module: DeclaresCost, given: object, made: object) -> None:
        before = inside.pop()
        if inside:
            return
        count.hidden += count.counter.get_total_flops() - before
        shapes = _shape(given), _shape(made)
        flops, binary = count.declared.get(path, (0, 0))
        flops += 2 * int(module.float_macs(*shapes))
        count.declared[path] = (flops, binary + int(module.binary_ops(*shapes)))

    for path, module in copy.named_modules():
        if isinstance(module, nn.Module) and isinstance(module, DeclaresCost):
            module.register_forward_pre_hook(begin)
            module.register_forward_hook(
                lambda own, args, kwargs, made, path=path: end(path, own, (args, kwargs), made),
                with_kwargs=True,
            )


def _shape(values: object) -> Shape:
    """Of the first tensor."""
    return next((tuple(one.shape) for one in tree_leaves(values) if isinstance(one, Tensor)), ())


def cost(network: nn.Module, input_shape: Shape) -> Cost:
    """Cost of a network for one image.

    Counted by :class:`torch.utils.flop_counter.FlopCounterMode` on a copy without data, so it takes
    neither arithmetic nor memory; a network that does not run on the ``meta`` device runs once.
    Modules of other kinds say themselves what they cost: :class:`DeclaresCost`.

    Args:
        network: Any network.
        input_shape: ``(C, H, W)``.

    Raises:
        ThinetError: If it is no network, or does not run on such an image.
    """
    check_network(network)
    count = _count(network, image_shape(input_shape))
    declared = count.declared.values()
    flops = count.counter.get_total_flops() - count.hidden + sum(flops for flops, _ in declared)
    stored = [*network.parameters(), *network.buffers()]
    params = _params(network)
    biases = {  # one that several layers share is one among the parameters, too
        bias: bias.numel()
        for module in network.modules()
        if isinstance(module, (*_COUNTED, DeclaresCost))
        and (bias := module._parameters.get("bias")) is not None
    }
    return Cost(
        flops=flops,
        macs=flops // 2,
        params=params,
        weights=params - sum(biases.values()),
        size_mb=sum(tensor.numel() * tensor.element_size() for tensor in stored) / 2**20,
        binary_ops=sum(binary for _, binary in declared),
        bits=_bits(network),
    )


def _params(network: nn.Module) -> int:
    """Of a network or a part of it."""
    kept = (one for one in network.modules() if isinstance(one, KeepsParametersOtherwise))
    packed = sum(int(one.parameters_kept_otherwise()) for one in kept)
    return sum(tensor.numel() for tensor in network.parameters()) + packed


def _bits(network: nn.Module) -> int:
    """Of all parameters: as declared, or as stored."""
    known: set[Tensor] = set()
    total = 0
    for module in _declaring(network).values():
        total += int(module.parameter_bits())
        known.update(module.parameters())  # type: ignore[attr-defined]
    rest = (tensor for tensor in network.parameters() if tensor not in known)
    return total + sum(8 * tensor.numel() * tensor.element_size() for tensor in rest)


def _declaring(network: nn.Module) -> dict[str, DeclaresCost]:
    """The outermost modules that declare their cost, by path."""
    found: dict[str, DeclaresCost] = {}
    for path, module in network.named_modules():
        if isinstance(module, DeclaresCost) and not _is_within(path, found):
            found[path] = module
    return found


def _is_within(path: str, outer: dict[str, DeclaresCost]) -> bool:
    return any(not one or path.startswith(f"{one}.") for one in outer)


def layer_costs(network: nn.Module, input_shape: Shape) -> dict[str, LayerCost]:
    """Cost of each convolution, linear layer and module that declares its own, by module path.

    Args:
        network: See :func:`cost`.
        input_shape: ``(C, H, W)``.
    """
    count = _count(network, input_shape)
    counts = count.counter.get_flop_counts()
    outer = _declaring(network)
    root = type(network).__name__
    result = {}
    for name, module in network.named_modules():
        params = _params(module)
        if name in outer:
            flops, binary = count.declared.get(name, (0, 0))
            result[name] = LayerCost(flops, params, binary)
        elif isinstance(module, _COUNTED) and not _is_within(name, outer):
            flops = int(sum(counts.get(f"{root}.{name}", {}).values()))
            result[name] = LayerCost(flops, params)
    return result

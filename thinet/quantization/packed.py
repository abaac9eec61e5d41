"""Binary layers as they are kept: the signs of their weights as bits, and a factor a filter.

They compute what the trained layers compute, from bits that are unpacked at every call: a small
file, equal and no faster in PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from thinet.artifacts.spec import Transform
from thinet.base.errors import ThinetError
from thinet.quantization.layers import (
    BinarisesInput,
    BinaryConv2d,
    BinaryLinear,
    Convolves,
    Multiplies,
    Shape,
    binary_layers,
)
from thinet.quantization.settings import SCALES
from thinet.quantization.weights import filter_scales, pack_signs, unpack_bits

PACKED = Transform("thinet.quantization.packed.packed")
"""What a saved network says of it."""


class PackedLayer(BinarisesInput):
    """What both kinds of packed layer share.

    Attributes:
        bits: ``uint8 (O, ceil(n / 8))``, see :func:`thinet.quantization.weights.pack_signs`.
        scales: The factors alpha, ``(O,)``, in the type that the layer computes in: a factor that
            is rounded to it before it takes a sign is the same number as one rounded after.
        form: ``uint8 (2,)``: the order, and the place of the scale in
            :data:`thinet.quantization.settings.SCALES`, so that a file says itself what it is of.
    """

    bits: Tensor
    scales: Tensor
    form: Tensor

    def _take(self: Any, layer: BinaryConv2d | BinaryLinear) -> None:
        """Become ``layer``, whose BatchNorm, scales and bias are taken over, not copied."""
        self.quantizer, self.norm, self.constant = layer.quantizer, layer.norm, layer.constant
        self.register_parameter("bias", layer.bias)
        with torch.no_grad():
            weight = layer.weight.detach()
            form = [self.quantizer.order, SCALES.index(self.quantizer.scale)]
            self.register_buffer("bits", pack_signs(weight))
            self.register_buffer("scales", filter_scales(weight).to(weight.dtype))
            self.register_buffer("form", weight.new_tensor(form, dtype=torch.uint8))
        self.train(layer.training)

    def fault_of(self, tensors: Mapping[str, Tensor]) -> str:
        """See :class:`thinet.artifacts.fill.ChecksTensors`."""
        if any(tensor.is_meta for tensor in tensors.values()):
            return ""
        order, scale = self.quantizer.order, self.quantizer.scale
        form = tensors["form"].tolist()
        if form != [order, SCALES.index(scale)]:
            names = dict(enumerate(SCALES))
            return (
                f"was packed with order {form[0]} and scale {names.get(form[1], form[1])}, and the "
                f"network has order {order} and scale {scale} there"
            )
        size = torch.Size(self.weight_shape[1:]).numel()
        if size % 8 and bool((tensors["bits"][:, -1] >> size % 8).any()):
            return f"has bits beyond the {size} weights of a filter"
        scales = tensors["scales"]
        if not bool((scales.isfinite() & (scales >= 0)).all()):
            return "has factors that are negative or not finite"
        return ""

    def why_not_trained(self) -> str:
        """See :class:`thinet.surgery.refusals.RefusesTraining`."""
        return (
            "its weights are bits, which have no gradient: train the network before it is packed, "
            "or binarise the full-precision network again"
        )

    def parameters_kept_otherwise(self) -> int:
        """See :class:`thinet.metrics.KeepsParametersOtherwise`."""
        return self._weights()

    def _check_mode(self: Any) -> None:
        if self.training and torch.is_grad_enabled():
            raise ThinetError(
                f"a packed layer cannot be trained, because {self.why_not_trained()}; to run it, "
                "call network.eval()."
            )

    def computed_weight(self) -> Tensor:
        """The weight that is computed with: alpha or -alpha, made anew at every call."""
        scales = self.scales.view(-1, *[1] * (len(self.weight_shape) - 1))
        return torch.where(unpack_bits(self.bits, self.weight_shape), scales, -scales)


class PackedConv2d(PackedLayer, Convolves, nn.Module):
    """A :class:`thinet.quantization.layers.BinaryConv2d` without its latent weights.

    Args:
        layer: What it computes as, and whose BatchNorm, scales and bias it takes over.
    """

    def __init__(self, layer: BinaryConv2d) -> None:
        nn.Module.__init__(self)
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel_size, self.stride, self.dilation = (
            layer.kernel_size, layer.stride, layer.dilation,
        )  # fmt: skip
        self.padding, self.padding_mode = layer.padding, layer.padding_mode
        self._reversed_padding_repeated_twice = list(layer._reversed_padding_repeated_twice)
        self._take(layer)

    def forward(self, input: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, O, h, w)``."""
        self._check_mode()
        return Convolves.forward(self, input)

    @property
    def weight_shape(self) -> Shape:
        """``(O, C, kh, kw)``."""
        return (self.out_channels, self.in_channels, *self.kernel_size)

    def extra_repr(self) -> str:
        """Of the layer that it was."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, order={self.quantizer.order}"
        )


class PackedLinear(PackedLayer, Multiplies, nn.Module):
    """A :class:`thinet.quantization.layers.BinaryLinear` without its latent weights.

    Args:
        layer: What it computes as, and whose BatchNorm, scales and bias it takes over.
    """

    def __init__(self, layer: BinaryLinear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._take(layer)

    def forward(self, input: Tensor) -> Tensor:
        """``(N, ..., in)`` to ``(N, ..., out)``."""
        self._check_mode()
        return Multiplies.forward(self, input)

    @property
    def weight_shape(self) -> Shape:
        """``(out, in)``."""
        return (self.out_features, self.in_features)

    def extra_repr(self) -> str:
        """Of the layer that it was."""
        return f"{self.in_features}, {self.out_features}, order={self.quantizer.order}"


def packed(network: nn.Module) -> nn.Module:
    """Replace the binary layers of a network by packed ones, in place.

    Args:
        network: With binary layers whose training is over, on any device; on ``meta`` the packed
            ones have shapes alone.

    Returns:
        ``network``, or the packed layer if it is a binary layer itself.

    Raises:
        ThinetError: If it has no binary layer, or one whose weights are not binary or not finite.
    """
    layers = binary_layers(network)
    if not layers:
        raise ThinetError(
            "the network has no binary layer to pack: convert it first, thinet.binarize(network)."
        )
    for path, layer in layers.items():
        _check(path or "the network", layer)
    made = {id(layer): _packed(layer) for layer in layers.values()}
    for module in list(network.modules()):
        for name, child in list(module._modules.items()):
            if id(child) in made:  # under every name that it has
                module._modules[name] = made[id(child)]
    return made.get(id(network), network)


def packed_layers(network: nn.Module) -> dict[str, PackedConv2d | PackedLinear]:
    """The packed layers of a network, by module path."""
    return {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, (PackedConv2d, PackedLinear))
    }


def _packed(layer: BinaryConv2d | BinaryLinear) -> PackedConv2d | PackedLinear:
    return PackedConv2d(layer) if isinstance(layer, BinaryConv2d) else PackedLinear(layer)


def _check(path: str, layer: BinaryConv2d | BinaryLinear) -> None:
    if not layer.binary_weights:
        raise ThinetError(
            f"{path} still computes with weights of full precision (binary_weights=False): train "
            "it with binary ones before it is packed."
        )
    if not layer.weight.is_meta and not bool(torch.isfinite(layer.weight).all()):
        raise ThinetError(
            f"{path} has weights that are not finite, which have no sign: train it again with a "
            "lower learning rate."
        )

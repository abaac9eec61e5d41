"""Convolutions and linear layers that binarise their input and their weights, for training."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinet.quantization.lowering import Deployable
from thinet.quantization.quantizer import ConstantScales, quantized
from thinet.quantization.settings import Quantizer
from thinet.quantization.weights import binarize_weight

Shape = tuple[int, ...]


class BinarisesInput(Deployable):
    """What binary layers share, in training and packed; see :class:`thinet.metrics.DeclaresCost`.

    Attributes:
        quantizer: Of the input.
        norm: BatchNorm in front of the quantiser, or None where the network has one there.
        constant: Scales of ``scale=constant``, or None.
        bias: Of each filter, or None.
    """

    quantizer: Quantizer
    norm: nn.Module | None
    constant: ConstantScales | None
    bias: Any

    @property
    def weight_shape(self) -> Shape:
        """``(O, ...)``, of the weight that is computed with."""
        raise NotImplementedError

    def computed_weight(self) -> Tensor:
        """The weight that is computed with, of shape ``weight_shape``."""
        raise NotImplementedError

    def binary_ops(self, input_shape: Shape, output_shape: Shape) -> int:
        """1-bit multiply-accumulates: K for each weight at each position."""
        positions = torch.Size(output_shape).numel() // self.weight_shape[0]
        return self.quantizer.order * positions * self._weights()

    def float_macs(self, input_shape: Shape, output_shape: Shape) -> int:
        """K + 1 for each output: K binary sums are scaled and added, and the filter's factor."""
        return (self.quantizer.order + 1) * int(torch.Size(output_shape).numel())

    def parameter_bits(self) -> int:
        """One a weight and 32 a factor; biases and BatchNorm have 32."""
        others = [self.bias, *(self.norm.parameters() if self.norm is not None else ())]
        rest = sum(one.numel() for one in others if one is not None)
        return self._weights() + 32 * (int(self.weight_shape[0]) + int(rest))

    def why_not_pruned(self) -> str:
        """See :class:`thinet.surgery.refusals.RefusesPruning`."""
        return (
            "it is binary, and which filters matter shows in weights of full precision: prune "
            "the network first and binarise what is left"
        )

    def _weights(self) -> int:
        return int(torch.Size(self.weight_shape).numel())


class Convolves(BinarisesInput):
    """The forward pass of a binary convolution, whatever its weight is computed from."""

    kernel_size: Any
    stride: Any
    padding: Any
    dilation: Any
    padding_mode: Any
    _reversed_padding_repeated_twice: Any

    def forward(self, input: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, O, h, w)``."""
        x = input if self.norm is None else self.norm(input)
        if self.quantizer.scale == "patch":
            return self._by_patch(x)
        x, padding = quantized(x, self.quantizer, self.constant), self.padding
        if self.padding_mode != "zeros":
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return F.conv2d(x, self.computed_weight(), self.bias, self.stride, padding, self.dilation)

    def _by_patch(self, x: Tensor) -> Tensor:
        """The paper's Algorithm 2: every column of the unfolded input has scales of its own."""
        kernel, stride, dilation = (
            _pair(one) for one in (self.kernel_size, self.stride, self.dilation)
        )
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        sides = self._reversed_padding_repeated_twice
        inside = x.new_ones(1, 1, *x.shape[2:])
        x, inside = F.pad(x, sides, mode=mode), F.pad(inside, sides, mode=mode)
        columns = F.unfold(x, kernel, dilation, 0, stride)
        there = F.unfold(inside, kernel, dilation, 0, stride)  # (1, kh kw, P)
        columns = quantized(columns, self.quantizer, None)
        size = len(there[0])
        columns = (columns.unflatten(1, (-1, size)) * there.unsqueeze(1)).flatten(1, 2)
        weight = self.computed_weight().flatten(1)
        # `@` would sum in another order where a weight takes gradients.
        made: Tensor = torch.bmm(weight.expand(x.shape[0], -1, -1), columns)
        height = _positions(x.shape[2], kernel[0], stride[0], dilation[0])
        made = made.unflatten(2, (height, -1))
        return made if self.bias is None else made + self.bias.view(-1, 1, 1)


class Multiplies(BinarisesInput):
    """The forward pass of a binary linear layer, whatever its weight is computed from."""

    def forward(self, input: Tensor) -> Tensor:
        """``(N, ..., in)`` to ``(N, ..., out)``."""
        x = input
        if self.norm is not None:
            x = self.norm(x.flatten(0, -2)).reshape(x.shape)
        if self.quantizer.scale == "patch":
            columns = x.flatten(0, -2).unsqueeze(2)
            x = quantized(columns, self.quantizer, None).reshape(x.shape)
        else:
            x = quantized(x, self.quantizer, self.constant)
        return F.linear(x, self.computed_weight(), self.bias)


class BinaryLayer(BinarisesInput):
    """A layer in training, whose latent weights are binarised at every step.

    Attributes:
        binary_weights: Whether weights are binary already, or the input alone is: the first of two
            steps of training.
    """

    binary_weights: bool
    weight: Any

    def _begin(self, quantizer: Quantizer, norm: nn.Module | None) -> None:
        self.quantizer, self.norm, self.binary_weights = quantizer, norm, True
        fixed = quantizer.scale == "constant"
        self.constant = ConstantScales(quantizer.order) if fixed else None

    @property
    def weight_shape(self) -> Shape:
        """Of the latent weight, which may become another one."""
        return tuple(self.weight.shape)

    def computed_weight(self) -> Tensor:
        """The weight that is computed with: alpha times -1 or +1, or the latent one."""
        if not self.binary_weights:
            latent: Tensor = self.weight
            return latent
        return binarize_weight(self.weight, self.quantizer.clip)


class BinaryConv2d(BinaryLayer, Convolves, nn.Conv2d):
    """A convolution whose input is binarised with order K and whose weights have one bit.

    Zero padding adds nothing: the input is binarised before it is padded. With ``scale=patch`` the
    scales are means over what a filter sees, padding included (as XNOR-Net's map K counts it), and
    padded places still add nothing.

    Args:
        quantizer: Of the input.
        norm: BatchNorm in front of it, or None.
        args: As of :class:`torch.nn.Conv2d`, with ``groups=1``.
        kwargs: As ``args``.
    """

    def __init__(
        self, quantizer: Quantizer, norm: nn.Module | None, *args: Any, **kwargs: Any
    ) -> None:
        nn.Conv2d.__init__(self, *args, **kwargs)
        self._begin(quantizer, norm)

    @classmethod
    def like(cls, layer: nn.Conv2d, quantizer: Quantizer, norm: nn.Module | None) -> BinaryConv2d:
        """With the weights of ``layer``, which become the latent ones."""
        with torch.device("meta"):
            made = cls(
                quantizer, norm, layer.in_channels, layer.out_channels,
                _pair(layer.kernel_size), _pair(layer.stride),
                layer.padding if isinstance(layer.padding, str) else _pair(layer.padding),
                _pair(layer.dilation), bias=layer.bias is not None,
                padding_mode=layer.padding_mode,
            )  # fmt: skip
        return _taking_over(made, layer, quantizer)


class BinaryLinear(BinaryLayer, Multiplies, nn.Linear):
    """A linear layer whose input is binarised with order K and whose weights have one bit.

    With ``scale=patch`` every row has scales of its own, which of inputs ``(N, in)`` is the same as
    ``scale=sample``.

    Args:
        quantizer: Of the input.
        norm: BatchNorm in front of it, over all rows, or None.
        args: As of :class:`torch.nn.Linear`.
        kwargs: As ``args``.
    """

    def __init__(
        self, quantizer: Quantizer, norm: nn.Module | None, *args: Any, **kwargs: Any
    ) -> None:
        nn.Linear.__init__(self, *args, **kwargs)
        self._begin(quantizer, norm)

    @classmethod
    def like(cls, layer: nn.Linear, quantizer: Quantizer, norm: nn.Module | None) -> BinaryLinear:
        """With the weights of ``layer``, which become the latent ones."""
        with torch.device("meta"):
            made = cls(
                quantizer, norm, layer.in_features, layer.out_features, layer.bias is not None
            )
        return _taking_over(made, layer, quantizer)


def binary_layers(network: nn.Module) -> dict[str, BinaryConv2d | BinaryLinear]:
    """The binary layers of a network, by module path."""
    return {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, (BinaryConv2d, BinaryLinear))
    }


L = TypeVar("L", BinaryConv2d, BinaryLinear)


def _taking_over(made: L, layer: nn.Conv2d | nn.Linear, quantizer: Quantizer) -> L:
    made.weight, made.bias = layer.weight, layer.bias
    if quantizer.scale == "constant":  # made where the weights are, not on "meta"
        made.constant = ConstantScales(quantizer.order).to(layer.weight.device)
    made.train(layer.training)
    return made


def _pair(value: Any) -> tuple[int, int]:
    first, second = value
    return int(first), int(second)


def _positions(size: int, kernel: int, stride: int, dilation: int) -> int:
    return (size - dilation * (kernel - 1) - 1) // stride + 1

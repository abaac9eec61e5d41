"""Binary layers as graphs of OpenVINO that compute with bits.

A layer becomes its BatchNorm, K times (scale, bits, 1-bit convolution, residual), and one sum; see
:class:`thinet.artifacts.openvino.Lowers`. All that is deployed goes through :class:`Deployable`,
whether the weights are latent numbers or bits already.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from thinet.base.errors import ThinetError
from thinet.quantization import opset
from thinet.quantization.geometry import Geometry
from thinet.quantization.quantizer import ConstantScales
from thinet.quantization.residual import sign
from thinet.quantization.settings import Quantizer


class Deployable:
    """What a binary layer needs in order to be deployed; a mixin of the layers.

    Attributes:
        quantizer: Of the input.
        norm: BatchNorm in front of the quantiser, or None.
        constant: Scales of ``scale=constant``, or None.
        bias: ``(O,)`` or None.
    """

    quantizer: Quantizer
    norm: nn.Module | None
    constant: ConstantScales | None
    bias: Any

    def computed_weight(self) -> Tensor:
        """Alpha times -1 or +1: ``(O, C, kh, kw)`` or ``(O, in)``."""
        raise NotImplementedError

    @torch.no_grad()
    def signs(self) -> Tensor:
        """Weights as -1 and +1, in the shape that they have.

        Raises:
            ThinetError: If they are not binary yet.
        """
        if not getattr(self, "binary_weights", True):
            raise ThinetError(
                "the weights of this network are not binary yet, its activations alone are: deploy "
                "what the second step of training gives."
            )
        return sign(self.computed_weight())

    @torch.no_grad()
    def factors(self) -> Tensor:
        """Alpha of each filter: ``(O,)``."""
        return self.computed_weight().abs().flatten(1)[:, 0]

    def lowered(self, given: Any) -> Any:
        """See :class:`thinet.artifacts.openvino.Lowers`."""
        if hasattr(self, "kernel_size"):
            return _conv(self, _normalised(given, self.norm, (1, -1, 1, 1)))
        return _linear(self, _normalised(given, self.norm, (-1,)))

    def rounding(self, given: Tensor, near: float) -> Tensor:
        """See :class:`thinet.artifacts.parity.Rounds`.

        A bit whose residual is nearly 0 may be either, and so may those of higher order behind it:
        an output that it reaches then differs by up to 2 alpha (b_1 + ... + b_K).
        """
        slack = _undecided(self, given, near)
        if not hasattr(self, "kernel_size"):
            return slack * self.factors()
        return slack * self.factors().view(-1, 1, 1)


def _normalised(x: Any, norm: nn.Module | None, shape: tuple[int, ...]) -> Any:
    """BatchNorm as torch computes it: one factor and one summand a channel."""
    if norm is None:
        return x
    factor, summand = _affine(norm)
    ops = opset.operations()
    scaled = ops.multiply(x, opset.constant(factor.view(shape)))
    return ops.add(scaled, opset.constant(summand.view(shape)))


@torch.no_grad()
def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        raise ThinetError(
            f"a {type(norm).__name__} in a binary layer cannot be deployed: use a BatchNorm with "
            "running statistics."
        )
    factor = 1 / torch.sqrt(norm.running_var + norm.eps)
    factor = factor if norm.weight is None else norm.weight * factor
    summand = -norm.running_mean * factor
    return factor, summand if norm.bias is None else norm.bias + summand


def _conv(layer: Any, x: Any) -> Any:
    geometry = Geometry(layer)
    if layer.quantizer.scale == "patch" and layer.quantizer.order > 1:
        return _finished(layer, _by_patch(layer, x, geometry), (1, -1, 1, 1))
    sides = geometry.sides
    inside = [0, 0, 0, 0] if geometry.mode != "zeros" else sides
    convolve, fill = _binary_convolution(layer.signs(), geometry, inside, x)

    def product(residual: Any) -> Any:
        if geometry.mode != "zeros":
            residual = opset.padded(residual, sides, geometry.mode)
        return convolve(opset.binarised(opset.filled(residual, fill)))

    if layer.quantizer.scale == "patch":
        sizes = opset.mean_size(x, [1])
        scale = _box_mean(opset.padded(sizes, sides, geometry.mode), geometry)
        total = opset.operations().multiply(product(x), scale)
    else:
        total = _recursion(layer, x, (1, 2, 3), product)
    return _finished(layer, total, (1, -1, 1, 1))


def _linear(layer: Any, x: Any) -> Any:
    """A convolution of 1 x 1 over rows, each of which is an image of one pixel."""
    ops, axes = opset.operations(), opset.rank(x)
    width = opset.fixed_size(x, axes - 1)
    geometry = _point()
    convolve, fill = _binary_convolution(layer.signs()[..., None, None], geometry, [0] * 4, None)
    outputs, between = (
        len(layer.factors()),
        [opset.fixed_size(x, axis) for axis in range(1, axes - 1)],
    )

    def product(residual: Any) -> Any:
        flat = ops.reshape(residual, [-1, width, 1, 1], special_zero=False)
        made = convolve(opset.binarised(opset.filled(flat, fill)))
        return ops.reshape(made, [-1, *between, outputs], special_zero=False)

    over = (axes - 1,) if layer.quantizer.scale == "patch" else tuple(range(1, axes))
    return _finished(layer, _recursion(layer, x, over, product), (-1,))


def _point() -> Geometry:
    return Geometry(nn.Conv2d(1, 1, 1, device="meta"))


def _recursion(layer: Any, x: Any, axes: tuple[int, ...], product: Any) -> Any:
    """The sum of b_k times the product of bits of order k."""
    ops, residual, total = opset.operations(), x, None
    for k in range(layer.quantizer.order):
        scale = _scale(layer, residual, axes, k)
        part = ops.multiply(product(residual), scale)
        total = part if total is None else ops.add(total, part)
        if k + 1 < layer.quantizer.order:
            residual = ops.subtract(residual, opset.signed(scale, residual))
    return total


def _scale(layer: Any, residual: Any, axes: tuple[int, ...], k: int) -> Any:
    if layer.constant is None:
        return opset.mean_size(residual, axes)
    return opset.constant(layer.constant.scales[k])


def _finished(layer: Any, total: Any, shape: tuple[int, ...]) -> Any:
    ops = opset.operations()
    made = ops.multiply(total, opset.constant(layer.factors().view(shape)))
    return made if layer.bias is None else ops.add(made, opset.constant(layer.bias.view(shape)))


def _box_mean(x: Any, geometry: Geometry) -> Any:
    """Means of ``(N, 1, H, W)`` over what a filter sees, padding included."""
    high, wide = geometry.kernel
    weights = torch.full((1, 1, high, wide), 1 / (high * wide))
    return opset.operations().convolution(
        x, opset.constant(weights), geometry.stride, [0, 0], [0, 0], geometry.dilation
    )


def _binary_convolution(signs: Tensor, geometry: Geometry, sides: list[int], x: Any) -> Any:
    """What convolves bits, and the channels that have to be filled in behind the input's.

    Bits filled in are 1, and their weights +1 and -1 in turn cancel. Of an odd number one is left,
    which counts the places that a filter has within the image: that is subtracted.
    """
    ops = opset.operations()
    fill = -signs.shape[1] % opset.BLOCK
    filler = torch.ones(1, fill, 1, 1)
    filler[:, 1::2] = -1
    whole = torch.cat([signs.float(), filler.expand(len(signs), fill, *signs.shape[2:])], 1)
    weights = opset.sign_bits(whole)
    left, right, top, bottom = sides
    extra = None
    if fill % 2:
        extra = opset.constant(_places(geometry, sides, x))

    def convolve(bits: Any) -> Any:
        made = ops.binary_convolution(
            bits, weights, geometry.stride, [top, left], [bottom, right], geometry.dilation,
            "xnor-popcount", 0.0,
        )  # fmt: skip
        return made if extra is None else ops.subtract(made, extra)

    return convolve, fill


def _places(geometry: Geometry, sides: list[int], x: Any) -> Tensor:
    """How many of a filter's places lie within the image, at each position."""
    if not any(sides):
        return torch.tensor(float(geometry.kernel[0] * geometry.kernel[1]))
    return geometry.sums(torch.ones(1, 1, opset.fixed_size(x, 2), opset.fixed_size(x, 3)))


def _by_patch(layer: Any, x: Any, geometry: Geometry) -> Any:
    """The paper's Algorithm 2, each column of the unfolded input by itself; before factors.

    Padded places are zeros with bits of their own, which depend on the position's scales alone: the
    value that zero is given there, times the weights of those places, is subtracted.
    """
    ops, signs = opset.operations(), layer.signs().float()
    wide = opset.padded(x, geometry.sides, geometry.mode)
    columns = ops.extract_image_patches(
        wide, geometry.kernel, geometry.stride, geometry.dilation, "VALID"
    )  # (N, kh kw C, h, w)
    rows = signs.flatten(2).transpose(1, 2).flatten(1)[..., None, None]  # in the same order
    convolve, fill = _binary_convolution(rows, _point(), [0] * 4, None)
    empty, zero = geometry.mode == "zeros" and any(geometry.sides), opset.constant(0.0)
    given, total = None, None
    residual = columns
    for k in range(layer.quantizer.order):
        scale = opset.mean_size(residual, [1])
        bits = opset.binarised(opset.filled(residual, fill))
        part = ops.multiply(convolve(bits), scale)
        total = part if total is None else ops.add(total, part)
        if empty:
            own = scale if given is None else opset.signed(scale, ops.subtract(zero, given))
            given = own if given is None else ops.add(given, own)
        if k + 1 < layer.quantizer.order:
            residual = ops.subtract(residual, opset.signed(scale, residual))
    if not empty:
        return total
    return ops.subtract(total, ops.multiply(_outside(signs, geometry, x), given))


def _outside(signs: Tensor, geometry: Geometry, x: Any) -> Any:
    """The sum of the weights that lie on padding: ``(1, O, h, w)``, as a product of small ones."""
    ones = torch.ones(1, 1, opset.fixed_size(x, 2), opset.fixed_size(x, 3))
    places = 1 - geometry.columns(ones)  # (1, kh kw, P)
    shape = geometry.sums(ones).shape[2:]
    weights = signs.sum(1).flatten(1)[..., None, None]
    return opset.operations().convolution(
        opset.constant(places.view(1, -1, *shape)), opset.constant(weights), [1, 1], [0, 0], [0, 0],
        [1, 1],
    )  # fmt: skip


@torch.no_grad()
def _undecided(layer: Any, given: Tensor, near: float) -> Tensor:
    """Twice the scales of bits that rounding may decide, summed over what a filter sees."""
    x, error = given, torch.zeros(())
    flat = not hasattr(layer, "kernel_size")
    if layer.norm is not None:
        factor, summand = _affine(layer.norm)
        shape = (-1,) if flat else (-1, 1, 1)
        scaled, summand = x * factor.view(shape), summand.view(shape)
        x, error = scaled + summand, scaled.abs() + summand.abs()
    by_patch = layer.quantizer.scale == "patch"
    if flat:
        over = (x.dim() - 1,) if by_patch else tuple(range(1, x.dim()))
        return _at_stake(layer, x, error, over, near).sum(-1, keepdim=True)
    geometry = Geometry(layer)
    if not by_patch:
        return geometry.sums(_at_stake(layer, x, error, (1, 2, 3), near).sum(1, keepdim=True))
    ones = torch.ones(1, 1, *x.shape[2:])
    columns, errors = geometry.columns(x), geometry.columns(error.expand_as(x))
    made = _at_stake(layer, columns, errors, (1,), near).sum(1)
    return made.view(len(x), 1, *geometry.sums(ones).shape[2:])


def _at_stake(layer: Any, x: Tensor, error: Tensor, axes: tuple[int, ...], near: float) -> Tensor:
    """2 (b_1 + ... + b_K) where a bit is undecided, else 0: of the shape of ``x``."""
    residual, reach = x, torch.zeros(())
    undecided = x.abs() < near * error
    for k in range(layer.quantizer.order):
        if layer.constant is None:
            scale = residual.abs().mean(axes, keepdim=True)
        else:
            scale = layer.constant.scales[k]
        if k:
            undecided = undecided | (residual.abs() <= near * (x.abs() + reach + error))
        reach = reach + scale
        residual = residual - scale * sign(residual)
    return torch.where(undecided, 2 * reach, 0.0)

"""Operations of OpenVINO that binary layers are made of, with the traps of each of them avoided.

Nodes and outputs of graphs are ``Any`` here, as the package has no types of its own for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK = 8
"""Input channels come in multiples of this: others run, and are wrong without a word."""
_BELOW_ZERO = -float(np.finfo(np.float32).tiny)
"""Whatever is larger becomes a 1. The largest number below 0 that no mode of a processor takes for
0, so that 0 itself becomes 1 everywhere: see :func:`thinet.quantization.residual.sign`."""
_PADDING = {"reflect": "reflect", "replicate": "edge"}  # torch's words, and OpenVINO's


def operations() -> Any:
    """The operation set, imported when it is first needed."""
    import openvino.opset13 as found

    return found


def constant(values: Tensor | float | list[Any]) -> Any:
    """A constant of float32."""
    array = torch.as_tensor(values, dtype=torch.float32).detach().cpu().numpy()
    return operations().constant(np.array(array))  # a copy: the network's tensor may go away


def sign_bits(signs: Tensor) -> Any:
    """Weights as a constant of one bit each, lowest bit first.

    Args:
        signs: ``(O, C, kh, kw)``, -1 and +1.
    """
    import openvino as ov

    bits = np.packbits(signs.cpu().numpy().reshape(-1) > 0, bitorder="little")
    tensor = ov.Tensor(bits, ov.Shape(list(signs.shape)), ov.Type.u1)
    return ov.op.Constant(tensor, shared_memory=False)  # else the array would have to live on


def binarised(x: Any) -> Any:
    """Bits, 1 where ``x >= 0``: with any other two values the convolution behind is wrong."""
    threshold, zero, one = (constant([[[[value]]]]) for value in (_BELOW_ZERO, 0.0, 1.0))
    return operations().fake_quantize(x, threshold, threshold, zero, one, 2)


def filled(x: Any, channels: int) -> Any:
    """``channels`` of zeros behind those of ``(N, C, H, W)``."""
    if not channels:
        return x
    return operations().pad(x, [0, 0, 0, 0], [0, channels, 0, 0], "constant", constant(0.0))


def padded(x: Any, sides: Sequence[int], mode: str) -> Any:
    """``(N, C, H, W)`` padded as :func:`torch.nn.functional.pad` does.

    Args:
        x: What to pad.
        sides: Left, right, top, bottom.
        mode: ``zeros``, ``reflect``, ``replicate`` or ``circular``.
    """
    left, right, top, bottom = sides
    if not any(sides):
        return x
    if mode == "circular":
        return _wrapped(_wrapped(x, 2, top, bottom), 3, left, right)
    begins, ends = [0, 0, top, left], [0, 0, bottom, right]
    if mode == "zeros":
        return operations().pad(x, begins, ends, "constant", constant(0.0))
    return operations().pad(x, begins, ends, _PADDING[mode])


def _wrapped(x: Any, axis: int, before: int, after: int) -> Any:
    size, ops = fixed_size(x, axis), operations()
    parts = [x]
    if before:
        parts.insert(0, ops.slice(x, [size - before], [size], [1], [axis]))
    if after:
        parts.append(ops.slice(x, [0], [after], [1], [axis]))
    return ops.concat(parts, axis) if len(parts) > 1 else x


def fixed_size(x: Any, axis: int) -> int:
    """The length of an axis, which must not depend on the images."""
    return int(_output(x).get_partial_shape().get_dimension(axis).get_length())


def rank(x: Any) -> int:
    """The number of axes."""
    return int(_output(x).get_partial_shape().rank.get_length())


def mean_size(x: Any, axes: Sequence[int]) -> Any:
    """The mean of ``|x|``; axes stay as 1."""
    ops = operations()
    return ops.reduce_mean(ops.abs(x), np.array(axes, np.int64), keep_dims=True)


def signed(scale: Any, x: Any) -> Any:
    """``scale`` where ``x >= 0``, else ``-scale``."""
    ops = operations()
    return ops.select(ops.greater_equal(x, constant(0.0)), scale, ops.negative(scale))


def _output(x: Any) -> Any:
    return x if hasattr(x, "get_partial_shape") else x.output(0)

"""What is known of ATen operations without parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Kwargs = Mapping[str, object]
"""Keyword arguments of an ATen operation."""

# Shape operations: they act on a label tensor as they do on the activation itself.
SHAPE = {
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "squeeze",
    "unsqueeze", "cat", "stack", "movedim", "flip",
}  # fmt: skip
# The same, as long as they do not cut the axis on which channels lie.
CUTTING = {"slice", "select", "split", "split_with_sizes", "unbind", "repeat", "roll", "unfold"}
PARTING = {"slice", "split", "split_with_sizes"}  # into equal parts they may cut even that
SCALING = {"mul", "mul_", "div", "div_"}  # a product: what is zero stays zero
SAME = {"clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "native_dropout"}
POOLING = {
    "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d",
    "upsample_nearest2d", "upsample_bilinear2d", "max_pool1d", "avg_pool1d", "reflection_pad2d",
    "replication_pad2d",
}  # fmt: skip
REDUCING = {"mean", "sum", "amax", "amin"}
# Element-wise, but without the pointwise tag.
POINTWISE = {
    "hardswish_", "hardswish", "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_",
    "_prelu_kernel",
}  # fmt: skip


def rectifies(operation: str, args: tuple[Any, ...]) -> bool:
    """Whether the result is zero exactly where the operand is not positive."""
    match operation.removesuffix("_"), args[1:]:
        case ("relu", _):
            return True
        case ("hardtanh" | "clamp" | "clamp_min", (low, *_)):  # ReLU6 is hardtanh(x, 0, 6)
            return bool(low == 0)
        case ("threshold", (threshold, value)):
            return bool(threshold == 0 and value == 0)
    return False


def axis_of(func: Any, args: tuple[Any, ...], kwargs: Kwargs) -> int | None:
    """The ``dim`` that an operation was called with, or None if it has none."""
    names = [argument.name for argument in func._schema.arguments]
    if "dim" not in names:
        return None
    place = names.index("dim")
    default = func._schema.arguments[place].default_value or 0
    found: Any = kwargs.get("dim", args[place] if len(args) > place else default)
    return int(found)


def listed(value: Any) -> list[Any]:
    """``value`` as a list, of one if it is not a sequence."""
    return list(value) if isinstance(value, (list, tuple)) else [value]

"""How channel labels pass through operations that have no parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from thinet.surgery.calls import CallMatcher
from thinet.surgery.graph import Use
from thinet.surgery.labels import NONE, ZERO, LabelSets, along, compact, spread, varying_axes

# Shape operations: they act on a label tensor as they do on the activation itself.
_SHAPE = {
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "squeeze",
    "unsqueeze", "cat", "stack", "movedim", "flip",
}  # fmt: skip
# The same, but written with sizes that pruning would falsify when they cut the channel axis.
_CUTTING = {"slice", "select", "split", "split_with_sizes", "unbind", "repeat", "roll", "unfold"}
_SAME = {"clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "native_dropout"}
_POOLING = {
    "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d",
    "upsample_nearest2d", "upsample_bilinear2d", "max_pool1d", "avg_pool1d", "reflection_pad2d",
    "replication_pad2d",
}  # fmt: skip
_REDUCING = {"mean", "sum", "amax", "amin"}
# Element-wise, but without the pointwise tag.
_POINTWISE = {
    "hardswish_", "hardswish", "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_",
    "_prelu_kernel",
}  # fmt: skip


class Propagation:
    """Label tensors beside the activations of one forward pass, and what was learnt from them.

    Args:
        network: Whose parameters may take part in element-wise operations.
    """

    def __init__(self, network: nn.Module) -> None:
        self.sets = LabelSets()
        self.matcher = CallMatcher(network)
        self.blocks: dict[str, Tensor] = {}  # the labels of each producing weight
        self.uses: dict[tuple[str, int], Use] = {}
        self.rectified: dict[str, str] = {}
        self._labels: Any = WeakTensorKeyDictionary()
        self._origin: Any = WeakTensorKeyDictionary()

    def labels(self, tensor: Any) -> Tensor | None:
        """The labels of an activation, or None if no filter had a part in it."""
        found: Tensor | None = self._labels.get(tensor) if isinstance(tensor, Tensor) else None
        return found

    def plain(
        self, func: Any, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """One executed operation without parameters: what it does to the labels."""
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if all(self.labels(tensor) is None for tensor in inputs):
            return
        first = self.labels(args[0])
        if operation in _SAME and first is not None:
            output = result[0] if isinstance(result, tuple) else result
            self.assign(output, first, origin=self._origin.get(args[0]))
        elif operation in _SHAPE or (
            operation in _CUTTING and first is not None and not self._cuts(func, args, first)
        ):
            self._reshape(func, args, kwargs, result)
        elif operation == "constant_pad_nd" and first is not None:
            self._pad(args, kwargs, first, result)
        elif operation in _POOLING and first is not None:
            self._pool(first, result[0] if isinstance(result, tuple) else result)
        elif operation in _REDUCING and first is not None and len(args) > 1:
            self._reduce(func, args, kwargs, first, result)
        elif torch.Tag.pointwise in func.tags or operation in _POINTWISE:
            self._pointwise(inputs, result, _rectifies(operation, args))
        else:
            self.unknown(inputs, f"{operation} is not known to keep channels apart")

    def _cuts(self, func: Any, args: tuple[Any, ...], labels: Tensor) -> bool:
        """Whether a slicing operation cuts through an axis on which the labels vary."""
        names = [argument.name for argument in func._schema.arguments]
        if "dim" not in names:
            return True
        place = names.index("dim")
        default = func._schema.arguments[place].default_value or 0
        axis = args[place] if len(args) > place else default
        return axis % labels.dim() in varying_axes(labels)

    def _reshape(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        def swap(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(swap(item) for item in value)
            if not isinstance(value, Tensor):
                return value
            labels = self.labels(value)
            return torch.tensor(NONE).expand(value.shape) if labels is None else labels

        swapped = [swap(arg) for arg in args]
        if func._schema.name in ("aten::view", "aten::_unsafe_view"):
            moved: Any = swapped[0].reshape(result.shape)
            if len(varying_axes(moved)) > len(varying_axes(swapped[0])):
                self.unknown(args, "a view splits the channel axis")
                return
        else:
            moved = func(*swapped, **kwargs)
        for output, labels in zip(_listed(result), _listed(moved), strict=True):
            self.assign(output, labels)

    def _pad(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], labels: Tensor, result: Tensor
    ) -> None:
        value = args[2] if len(args) > 2 else kwargs.get("value", 0)
        amounts = list(args[1])
        axes = {labels.dim() - 1 - place // 2 for place, amount in enumerate(amounts) if amount}
        if not axes & set(varying_axes(labels)):  # a border of the map goes with its channel
            for axis in axes:
                labels = labels.narrow(axis, 0, 1)
            self.assign(result, labels.expand(result.shape))
            return
        # The number of padded channels is written in the code: it cannot follow.
        self.sets.freeze(labels, "they are padded to a fixed number of channels")
        fill = ZERO if value == 0 else NONE
        self.assign(result, torch.constant_pad_nd(labels.contiguous(), amounts, fill))

    def _pool(self, labels: Tensor, result: Tensor) -> None:
        axis = result.dim() - (3 if result.dim() != 3 else 2)
        vector = along(labels, axis)
        if vector is None:
            self.sets.freeze(labels, "pooling mixes them")
            return
        self.assign(result, spread(vector, axis, result.shape))

    def _reduce(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        labels: Tensor,
        result: Tensor,
    ) -> None:
        axes = [axis % labels.dim() for axis in _listed(args[1])]
        if not axes or set(axes) & set(varying_axes(labels)):
            self.sets.freeze(labels, f"{func._schema.name.removeprefix('aten::')} mixes them")
            return
        keep = bool(args[2]) if len(args) > 2 else bool(kwargs.get("keepdim", False))
        moved = labels
        for axis in sorted(axes, reverse=True):
            moved = moved.narrow(axis, 0, 1) if keep else moved.select(axis, 0)
        self.assign(result, moved)

    def _pointwise(self, inputs: list[Tensor], result: Any, rectifies: bool) -> None:
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        shape = outputs[0].shape
        merged: Tensor | None = None
        for tensor in inputs:
            labels = self.labels(tensor)
            if labels is not None:
                labels = labels.expand(shape)
                merged = labels if merged is None else self.merge(merged, labels)
        assert merged is not None
        for tensor in inputs:
            if self.labels(tensor) is None:
                self._meet_constant(merged, tensor)
        origin = self._origin.get(inputs[0])
        if rectifies and origin is not None:
            self._note_rectified(merged, origin)
        for output in outputs:
            self.assign(output, merged.expand(output.shape))

    def merge(self, left: Tensor, right: Tensor) -> Tensor:
        """Unite the labels that an element-wise operation brings together; shapes are equal."""
        small = [left, right]
        for axis in range(left.dim()):
            if left.stride(axis) == 0 and right.stride(axis) == 0 and left.shape[axis] > 1:
                small = [labels.narrow(axis, 0, 1) for labels in small]
        a, b = (labels.reshape(-1) for labels in small)
        pairs = torch.unique(torch.stack([a, b])[:, a != b], dim=1)
        both = (pairs >= 0).all(dim=0)
        self.sets.unite(pairs[0, both], pairs[1, both])
        fixed = pairs[:, (pairs == NONE).any(dim=0)]
        self.sets.freeze(fixed, "they are combined with values that no filter makes")
        return torch.maximum(*small).expand(left.shape)

    def _meet_constant(self, labels: Tensor, tensor: Tensor) -> None:
        """An unlabelled operand: harmless if the same for all channels, else it must follow."""
        shape = (1,) * (labels.dim() - tensor.dim()) + tuple(tensor.shape)
        axes = [axis for axis in varying_axes(labels) if shape[axis] > 1]
        if not axes:
            return
        name = self.matcher.name(tensor)
        vector = along(labels, axes[0]) if len(axes) == 1 else None
        if name is None or vector is None:
            self.sets.freeze(labels, "they are combined with values that no filter makes")
            return
        self.use(name, axes[0] - (labels.dim() - tensor.dim()), "follow", vector)

    def _note_rectified(self, labels: Tensor, origin: str) -> None:
        small = compact(labels).reshape(-1)
        for weight, block in self.blocks.items():
            if small.numel() == block.numel() and bool((small == block).all()):
                self.rectified.setdefault(weight, origin)

    def unknown(self, values: Any, reason: str) -> None:
        """Freeze whatever an operation that is not understood has touched."""
        for tensor in tree_leaves(values):
            labels = self.labels(tensor)
            if labels is not None:
                self.sets.freeze(labels, reason)

    # -- bookkeeping ---------------------------------------------------------------------------

    def assign(self, tensor: Tensor, labels: Tensor, origin: str | None = None) -> None:
        """Give an activation its labels, and the weight of the last operation before it."""
        self._labels[tensor] = labels
        if origin:
            self._origin[tensor] = origin

    def use(self, tensor: str, axis: int, role: Any, labels: Tensor) -> None:
        """Record that an axis of a stored tensor has one entry a channel."""
        before = self.uses.get((tensor, axis))
        if before is None:
            self.uses[tensor, axis] = Use(tensor, axis, role, labels)
            return
        # A weight used twice: what its k-th entry meets in both calls belongs together.
        merged = self.merge(before.labels, labels)
        self.uses[tensor, axis] = Use(tensor, axis, before.role, merged)


def _rectifies(operation: str, args: tuple[Any, ...]) -> bool:
    """Whether the result is zero exactly where the operand is not positive."""
    match operation.removesuffix("_"), args[1:]:
        case ("relu", _):
            return True
        case ("hardtanh" | "clamp" | "clamp_min", (low, *_)):  # ReLU6 is hardtanh(x, 0, 6)
            return bool(low == 0)
        case ("threshold", (threshold, value)):
            return bool(threshold == 0 and value == 0)
    return False


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]

"""How channel labels pass through operations that have no parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from thinet.surgery.calls import CallMatcher
from thinet.surgery.graph import Use
from thinet.surgery.labels import (
    NONE,
    ZERO,
    LabelSets,
    along,
    compact,
    pairs,
    spread,
    varying_axes,
)
from thinet.surgery.operations import (
    CUTTING,
    PARTING,
    POINTWISE,
    POOLING,
    REDUCING,
    SAME,
    SCALING,
    SHAPE,
    Kwargs,
    axis_of,
    listed,
    rectifies,
)


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
        self.rectified: list[tuple[Tensor, str]] = []  # labels before a ReLU, the tensor before it
        self._labels: Any = WeakTensorKeyDictionary()
        self._origin: Any = WeakTensorKeyDictionary()

    def labels(self, tensor: Any) -> Tensor | None:
        """The labels of an activation, or None if no filter had a part in it."""
        found: Tensor | None = self._labels.get(tensor) if isinstance(tensor, Tensor) else None
        return found

    def plain(
        self, func: Any, operation: str, args: tuple[Any, ...], kwargs: Kwargs, result: Any
    ) -> None:
        """One executed operation without parameters: what it does to the labels."""
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if all(self.labels(tensor) is None for tensor in inputs):
            return
        first = self.labels(args[0])
        if operation in SAME and first is not None:
            output = result[0] if isinstance(result, tuple) else result
            self.assign(output, first, origin=self._origin.get(args[0]))
        elif operation in SHAPE:
            self._reshape(func, args, kwargs, result)
        elif operation in CUTTING and first is not None:
            self._cut(func, args, kwargs, first, result)
        elif operation == "constant_pad_nd" and first is not None:
            self._pad(args, kwargs, first, result)
        elif operation in POOLING and first is not None:
            self._pool(first, result[0] if isinstance(result, tuple) else result)
        elif operation in REDUCING and first is not None and len(args) > 1:
            self._reduce(func, args, kwargs, first, result)
        elif torch.Tag.pointwise in func.tags or operation in POINTWISE:
            self._pointwise(inputs, result, operation, args)
        else:
            self.unknown(inputs, f"{operation} is not known to keep channels apart")

    def _cut(
        self, func: Any, args: tuple[Any, ...], kwargs: Kwargs, labels: Tensor, result: Any
    ) -> None:
        """A slice or split: fine beside the channel axis, or along it if the parts are equal."""
        axis = axis_of(func, args, kwargs)
        operation = func._schema.name.removeprefix("aten::")
        if axis is not None and axis % labels.dim() not in varying_axes(labels):
            self._reshape(func, args, kwargs, result)
            return
        parts = listed(result)
        whole = None if axis is None else along(labels, axis % labels.dim())
        if operation in PARTING and axis is not None and whole is not None:
            length = parts[0].shape[axis]
            equal = all(part.shape[axis] == length for part in parts)
            step = args[4] if operation == "slice" and len(args) > 4 else 1
            begin = args[2] if operation == "slice" and len(args) > 2 else 0
            fits = whole.numel() % length == 0 and (begin or 0) % length == 0
            if equal and fits and step == 1 and self.tie(whole, whole.numel() // length):
                self._reshape(func, args, kwargs, result)
                return
        self.unknown(args, f"{operation} cuts through them")

    def tie(self, vector: Tensor, parts: int) -> bool:
        """Unite the k-th entries of equal parts, so that all parts shrink alike."""
        rows = vector.view(parts, -1)
        if bool((vector < 0).any()):
            return False
        for row in rows[1:]:
            self.sets.unite(rows[0], row)
        return True

    def _view(self, before: Tensor, after: Tensor) -> bool:
        """Whether a view that splits the channel axis in two can follow smaller channels.

        Channels (g, k) of a split axis stay a rectangle only if the k-th of every part go together.
        """
        axes, others = varying_axes(before), varying_axes(after)
        if len(others) <= len(axes):
            return True
        vector = along(before, axes[0]) if len(axes) == 1 else None
        if vector is None or len(others) != 2 or others[1] != others[0] + 1:
            return False
        parts = after.shape[others[0]]
        return parts * after.shape[others[1]] == vector.numel() and self.tie(vector, parts)

    def _reshape(self, func: Any, args: tuple[Any, ...], kwargs: Kwargs, result: Any) -> None:
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
            if not self._view(swapped[0], moved):
                self.unknown(args, "a view splits the channel axis")
                return
        else:
            moved = func(*swapped, **kwargs)
        for output, labels in zip(listed(result), listed(moved), strict=True):
            self.assign(output, labels)

    def _pad(self, args: tuple[Any, ...], kwargs: Kwargs, labels: Tensor, result: Tensor) -> None:
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
        kwargs: Kwargs,
        labels: Tensor,
        result: Tensor,
    ) -> None:
        axes = [axis % labels.dim() for axis in listed(args[1])]
        if not axes or set(axes) & set(varying_axes(labels)):
            self.sets.freeze(labels, f"{func._schema.name.removeprefix('aten::')} mixes them")
            return
        keep = bool(args[2]) if len(args) > 2 else bool(kwargs.get("keepdim", False))
        moved = labels
        for axis in sorted(axes, reverse=True):
            moved = moved.narrow(axis, 0, 1) if keep else moved.select(axis, 0)
        self.assign(result, moved)

    def _pointwise(
        self, inputs: list[Tensor], result: Any, operation: str, args: tuple[Any, ...]
    ) -> None:
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        shape = outputs[0].shape
        merged: Tensor | None = None
        for tensor in inputs:
            labels = self.labels(tensor)
            if labels is not None:
                labels = labels.expand(shape)
                summed = operation not in SCALING
                merged = labels if merged is None else self.merge(merged, labels, summed)
        assert merged is not None
        for tensor in inputs:
            if self.labels(tensor) is None:
                self._meet_constant(merged, tensor)
        origin = self._origin.get(inputs[0])
        if origin is not None and rectifies(operation, args):
            self.rectified.append((compact(merged).reshape(-1), origin))
        for output in outputs:
            self.assign(output, merged.expand(output.shape))

    def merge(self, left: Tensor, right: Tensor, summed: bool = False) -> Tensor:
        """Unite the labels that an element-wise operation brings together; shapes are equal."""
        shape = left.shape
        for axis in range(left.dim()):
            if left.stride(axis) == 0 and right.stride(axis) == 0 and left.shape[axis] > 1:
                left, right = left.narrow(axis, 0, 1), right.narrow(axis, 0, 1)
        met = pairs(left, right, self.sets.size())
        both = (met >= 0).all(dim=0)
        self.sets.unite(met[0, both], met[1, both], summed)
        fixed = met[:, (met == NONE).any(dim=0)]
        self.sets.freeze(fixed, "they are combined with values that no filter makes")
        return torch.maximum(left, right).expand(shape)

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

    def rooted_uses(self) -> tuple[Use, ...]:
        """All uses, with the representatives of their labels."""
        return tuple(
            Use(use.tensor, use.axis, use.role, self.sets.roots(use.labels))
            for use in self.uses.values()
        )

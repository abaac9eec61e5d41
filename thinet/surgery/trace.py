"""Deriving, from one execution of a network, which channels belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from thinet.surgery.calls import CallMatcher, UnknownParameterError, WeightCall
from thinet.surgery.graph import ChannelGraph, Consumer, Layer, Use, owner
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


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Carries label tensors beside the activations of one forward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sets = LabelSets()
        self.matcher = CallMatcher(network)
        self.tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        self.blocks: dict[str, Tensor] = {}  # the labels of each producing weight
        self.sizes: dict[str, tuple[int, ...]] = {}
        self.kinds: dict[str, str] = {}
        self.uses: dict[tuple[str, int], Use] = {}
        self.calls: Counter[str] = Counter()
        self.depthwise: set[str] = set()
        self.rectified: dict[str, str] = {}
        self._labels: Any = WeakTensorKeyDictionary()
        self._origin: Any = WeakTensorKeyDictionary()

    def labels(self, tensor: Any) -> Tensor | None:
        """The labels of an activation, or None if no filter had a part in it."""
        found: Tensor | None = self._labels.get(tensor) if isinstance(tensor, Tensor) else None
        return found

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.matcher.note(func, args, result)
        operation = func._schema.name.removeprefix("aten::")
        try:
            call = self.matcher.match(func, args)
        except UnknownParameterError:
            self._unknown(args, f"{operation} with a computed weight")
            return result
        if call is not None:
            self._weight_call(call, result)
        else:
            self._plain(func, operation, args, kwargs, result)
        return result

    # -- operations with parameters ------------------------------------------------------------

    def _weight_call(self, call: WeightCall, result: Any) -> None:
        output = result[0] if isinstance(result, tuple) else result
        if call.weight:
            self.calls[call.weight] += 1
        if call.kind == "norm":
            self._norm(call, output)
        elif call.kind == "conv" and call.groups > 1:
            self._grouped(call, output)
        else:
            self._dense(call, output)

    def _dense(self, call: WeightCall, output: Tensor) -> None:
        axis = 1 if call.kind == "conv" else call.input.dim() - 1
        reads, writes = (0, 1) if call.transposed else (1, 0)
        size = self.tensors[call.weight].shape[reads]
        seen = self.labels(call.input)
        if seen is not None:
            vector = along(seen, axis)
            if vector is None:
                self.sets.freeze(seen, f"{owner(call.weight)} mixes them with other channels")
                vector = torch.full((size,), NONE)
            elif call.kind == "conv" and (call.transposed or call.input.dim() != 4):
                self.sets.freeze(seen, f"{owner(call.weight)} is not a plain 2-d convolution")
            self._use(call.weight, reads, "consume", vector)
        self._produce(call, writes, axis, output)

    def _produce(self, call: WeightCall, writes: int, axis: int, output: Tensor) -> None:
        block = self.blocks.get(call.weight)
        if block is None:
            block = self.sets.new(self.tensors[call.weight].shape[writes])
            self.blocks[call.weight] = block
            self.kinds[call.weight] = call.kind
            self.sizes[call.weight] = tuple(output.shape[2:]) if call.kind == "conv" else ()
            self._use(call.weight, writes, "produce", block)
            for extra in call.extras:
                self._use(extra, 0, "follow", block)
        self._set(output, spread(block, axis, output.shape), origin=call.weight)

    def _grouped(self, call: WeightCall, output: Tensor) -> None:
        seen = self.labels(call.input)
        vector = None if seen is None else along(seen, 1)
        weight = self.tensors[call.weight]
        depthwise = weight.shape[1] == 1 and weight.shape[0] == call.groups
        if depthwise and vector is not None and not call.transposed:
            self.depthwise.add(call.weight)
            for name in (call.weight, *call.extras):
                self._use(name, 0, "follow", vector)
            self._set(output, spread(vector, 1, output.shape), origin=call.weight)
            return
        if seen is not None:
            self.sets.freeze(seen, f"{owner(call.weight)} is a grouped convolution")
        if not depthwise:
            self._produce(call, 0, 1, output)
            self.sets.freeze(self.blocks[call.weight], "it is a grouped convolution")

    def _norm(self, call: WeightCall, output: Tensor) -> None:
        seen = self.labels(call.input)
        if seen is None:
            return
        vector = along(seen, 1)
        if vector is None:
            self.sets.freeze(seen, "a normalisation mixes them")
            return
        for name in (call.weight, *call.extras):
            if name:
                self._use(name, 0, "follow", vector)
        self._set(output, spread(vector, 1, output.shape), origin=call.weight)

    # -- operations without --------------------------------------------------------------------

    def _plain(
        self, func: Any, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if all(self.labels(tensor) is None for tensor in inputs):
            return
        first = self.labels(args[0])
        if operation in _SAME and first is not None:
            output = result[0] if isinstance(result, tuple) else result
            self._set(output, first, origin=self._origin.get(args[0]))
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
            self._unknown(inputs, f"{operation} is not known to keep channels apart")

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
                self._unknown(args, "a view splits the channel axis")
                return
        else:
            moved = func(*swapped, **kwargs)
        for output, labels in zip(_listed(result), _listed(moved), strict=True):
            self._set(output, labels)

    def _pad(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], labels: Tensor, result: Tensor
    ) -> None:
        value = args[2] if len(args) > 2 else kwargs.get("value", 0)
        amounts = list(args[1])
        axes = {labels.dim() - 1 - place // 2 for place, amount in enumerate(amounts) if amount}
        if not axes & set(varying_axes(labels)):  # a border of the map goes with its channel
            for axis in axes:
                labels = labels.narrow(axis, 0, 1)
            self._set(result, labels.expand(result.shape))
            return
        # The number of padded channels is written in the code: it cannot follow.
        self.sets.freeze(labels, "they are padded to a fixed number of channels")
        fill = ZERO if value == 0 else NONE
        self._set(result, torch.constant_pad_nd(labels.contiguous(), amounts, fill))

    def _pool(self, labels: Tensor, result: Tensor) -> None:
        axis = result.dim() - (3 if result.dim() != 3 else 2)
        vector = along(labels, axis)
        if vector is None:
            self.sets.freeze(labels, "pooling mixes them")
            return
        self._set(result, spread(vector, axis, result.shape))

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
        self._set(result, moved)

    def _pointwise(self, inputs: list[Tensor], result: Any, rectifies: bool) -> None:
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        shape = outputs[0].shape
        merged: Tensor | None = None
        for tensor in inputs:
            labels = self.labels(tensor)
            if labels is not None:
                labels = labels.expand(shape)
                merged = labels if merged is None else self._merge(merged, labels)
        assert merged is not None
        for tensor in inputs:
            if self.labels(tensor) is None:
                self._meet_constant(merged, tensor)
        origin = self._origin.get(inputs[0])
        if rectifies and origin is not None:
            self._note_rectified(merged, origin)
        for output in outputs:
            self._set(output, merged.expand(output.shape))

    def _merge(self, left: Tensor, right: Tensor) -> Tensor:
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
        self._use(name, axes[0] - (labels.dim() - tensor.dim()), "follow", vector)

    def _note_rectified(self, labels: Tensor, origin: str) -> None:
        small = compact(labels).reshape(-1)
        for weight, block in self.blocks.items():
            if small.numel() == block.numel() and bool((small == block).all()):
                self.rectified.setdefault(weight, origin)

    def _unknown(self, values: Any, reason: str) -> None:
        for tensor in tree_leaves(values):
            labels = self.labels(tensor)
            if labels is not None:
                self.sets.freeze(labels, reason)

    # -- bookkeeping ---------------------------------------------------------------------------

    def _set(self, tensor: Tensor, labels: Tensor, origin: str | None = None) -> None:
        self._labels[tensor] = labels
        if origin:
            self._origin[tensor] = origin

    def _use(self, tensor: str, axis: int, role: Any, labels: Tensor) -> None:
        before = self.uses.get((tensor, axis))
        if before is None:
            self.uses[tensor, axis] = Use(tensor, axis, role, labels)
            return
        # A weight used twice: what its k-th entry meets in both calls belongs together.
        merged = self._merge(before.labels, labels)
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


@torch.no_grad()
def trace(network: nn.Module, images: Tensor) -> ChannelGraph:
    """Follow channel labels through one execution of ``network``.

    The network runs in ``eval()`` mode and is left as it was. Convolutions and linear layers give
    every output channel a label; shape operations act on the labels; element-wise operations unite
    the labels they bring together; an operation that is not known freezes what it touches.

    Args:
        network: Any network; on the ``meta`` device the trace costs no arithmetic.
        images: An input on the network's device, ``(1, C, H, W)``.

    Returns:
        The layers, their consumers and every tensor axis with one entry a channel.
    """
    tracer = _Tracer(network)
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with tracer:
            output = network(images)
    finally:
        for module, training in modes.items():
            module.training = training
    for tensor in tree_leaves(output):
        labels = tracer.labels(tensor)
        if labels is not None:
            tracer.sets.freeze(labels, "they are the network's output")
    return _graph(tracer)


def _graph(tracer: _Tracer) -> ChannelGraph:
    uses = tuple(
        Use(use.tensor, use.axis, use.role, tracer.sets.roots(use.labels))
        for use in tracer.uses.values()
    )
    produced = {use.tensor: use.labels for use in uses if use.role == "produce"}
    layers = {owner(weight): _layer(tracer, uses, produced, weight) for weight in tracer.blocks}
    return ChannelGraph(layers=layers, uses=uses, depthwise=frozenset(tracer.depthwise))


def _layer(
    tracer: _Tracer, uses: tuple[Use, ...], produced: dict[str, Tensor], weight: str
) -> Layer:
    labels = produced[weight]
    filters = labels.numel()
    place = torch.full((tracer.sets.size(),), NONE)
    place[labels] = torch.arange(filters)
    consumers = []
    for use in uses:
        if use.role == "consume":
            channels = torch.where(use.labels >= 0, place[use.labels.clamp_min(0)], NONE)
            if bool((channels >= 0).any()):
                read = tracer.tensors[use.tensor]
                unknowns = read.numel() // read.shape[1 - use.axis]
                calls = tracer.calls[use.tensor]
                consumers.append(Consumer(use.tensor, channels, calls, unknowns))
    coupled = tuple(
        owner(other)
        for other, theirs in produced.items()
        if other != weight and bool((place[theirs] >= 0).any())
    )
    reasons = [tracer.sets.why_frozen(label) for label in labels.tolist()]
    reason = next((text for text in reasons if text is not None), None)
    if reason is None and coupled:
        reason = f"they are added to those of {', '.join(coupled[:3])}"
    if reason is None and len(torch.unique(labels)) < filters:
        reason = "its filters depend on one another"
    if reason is None and not consumers:
        reason = "no layer reads them"
    return Layer(
        name=owner(weight),
        weight=weight,
        kind="conv" if tracer.kinds[weight] == "conv" else "linear",
        filters=filters,
        labels=labels,
        output_size=tracer.sizes[weight],
        consumers=tuple(consumers),
        coupled=coupled,
        rectified=tracer.rectified.get(weight),
        reason=reason,
    )

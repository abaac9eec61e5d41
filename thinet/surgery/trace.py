"""Deriving, from one execution of a network, which channels belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from thinet.surgery.calls import UnknownParameterError, WeightCall
from thinet.surgery.graph import ChannelGraph, Consumer, Layer, Use, owner
from thinet.surgery.labels import NONE, along, spread
from thinet.surgery.modes import evaluating
from thinet.surgery.propagate import Propagation


class _Tracer(Propagation, TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Carries label tensors beside the activations of one forward pass."""

    def __init__(self, network: nn.Module) -> None:
        TorchDispatchMode.__init__(self)  # type: ignore[no-untyped-call]
        Propagation.__init__(self, network)
        self.tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        self.sizes: dict[str, tuple[int, ...]] = {}
        self.kinds: dict[str, str] = {}
        self.calls: Counter[str] = Counter()
        self.depthwise: set[str] = set()

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
            self.unknown(args, f"{operation} with a computed weight")
            return result
        if call is not None:
            self._weight_call(call, result)
        else:
            self.plain(func, operation, args, kwargs, result)
        return result

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
            self.use(call.weight, reads, "consume", vector)
        self._produce(call, writes, axis, output)

    def _produce(self, call: WeightCall, writes: int, axis: int, output: Tensor) -> None:
        block = self.blocks.get(call.weight)
        if block is None:
            block = self.sets.new(self.tensors[call.weight].shape[writes])
            self.blocks[call.weight] = block
            self.kinds[call.weight] = call.kind
            self.sizes[call.weight] = tuple(output.shape[2:]) if call.kind == "conv" else ()
            self.use(call.weight, writes, "produce", block)
            for extra in call.extras:
                self.use(extra, 0, "follow", block)
        self.assign(output, spread(block, axis, output.shape), origin=call.weight)

    def _grouped(self, call: WeightCall, output: Tensor) -> None:
        seen = self.labels(call.input)
        vector = None if seen is None else along(seen, 1)
        weight = self.tensors[call.weight]
        depthwise = weight.shape[1] == 1 and weight.shape[0] == call.groups
        if depthwise and vector is not None and not call.transposed:
            self.depthwise.add(call.weight)
            for name in (call.weight, *call.extras):
                self.use(name, 0, "follow", vector)
            self.assign(output, spread(vector, 1, output.shape), origin=call.weight)
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
                self.use(name, 0, "follow", vector)
        self.assign(output, spread(vector, 1, output.shape), origin=call.weight)


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
    with evaluating(network), tracer:
        output = network(images)
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

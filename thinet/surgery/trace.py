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

from thinet.surgery.calls import UnknownParameterError, WeightCall
from thinet.surgery.graph import ChannelGraph, Facts, Produced, owner
from thinet.surgery.groups import make_graph
from thinet.surgery.joins import JoinFinder, is_addition
from thinet.surgery.labels import NONE, along, spread
from thinet.surgery.modes import evaluating
from thinet.surgery.operations import Kwargs
from thinet.surgery.propagate import Propagation
from thinet.surgery.refusals import check_prunable


class _Tracer(Propagation, TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Carries label tensors beside the activations of one forward pass."""

    def __init__(self, network: nn.Module) -> None:
        TorchDispatchMode.__init__(self)  # type: ignore[no-untyped-call]
        Propagation.__init__(self, network)
        self.tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        self.produced: dict[str, Produced] = {}
        self.readers: dict[str, tuple[int, int]] = {}
        self.scales: dict[str, None] = {}
        self.calls: Counter[str] = Counter()
        self.work: Counter[str] = Counter()
        self.calls_of_norm: Counter[str] = Counter()
        self.biases: dict[str, set[str | None]] = {}  # of each weight
        self.joins: Counter[str] = Counter()
        self._finder = JoinFinder()
        self._shifts: dict[str, str] = {}
        self._fresh: Any = WeakTensorKeyDictionary()  # outputs that nobody has read, their weight
        self._read_otherwise: set[str] = set()
        self._from_images: Any = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Kwargs | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._note_images(func, (args, kwargs), result)
        self.matcher.note(func, args, result)
        operation = func._schema.name.removeprefix("aten::")
        if is_addition(operation, args, kwargs):
            self.joins.update(join.weight for join in self._finder.addition(args, None, result))
        else:
            self._finder.other(operation, args)
        try:
            call = self.matcher.match(func, args)
        except UnknownParameterError:
            self.unknown(args, f"{operation} with a computed weight")
            return result
        self.note_reading((args, kwargs), call)
        if call is not None:
            self._weight_call(call, args, result)
        else:
            self.plain(func, operation, args, kwargs, result)
        return result

    def look_at(self, images: Tensor) -> None:
        """What is made from ``images`` depends on them."""
        self._from_images[images] = True

    def _note_images(self, func: Any, values: Any, result: Any) -> None:
        leaves = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
        if not any(leaf in self._from_images for leaf in leaves):
            return
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                self._from_images[made] = True
                if func._schema.is_mutable and made._base is not None:
                    self._from_images[made._base] = True  # a part of it was written

    def note_reading(self, values: Any, call: WeightCall | None) -> None:
        """Find the outputs that a BatchNorm alone reads: its mean takes up what is added."""
        for tensor in tree_leaves(values):
            weight = self._fresh.get(tensor) if isinstance(tensor, Tensor) else None
            if weight is None:
                continue
            mean = call.mean if call is not None else None
            if mean is None or self._shifts.setdefault(weight, mean) != mean:
                self._read_otherwise.add(weight)

    def shifts(self) -> dict[str, str]:
        """By weight, what takes up a constant added to the output: bias or running mean."""
        found = {
            weight: mean
            for weight, mean in self._shifts.items()
            if weight not in self._read_otherwise and self.calls[weight] == self.calls_of_norm[mean]
        }
        users = Counter(bias for biases in self.biases.values() for bias in biases)
        for weight, biases in self.biases.items():
            (bias, *others) = biases
            if bias is not None and not others and users[bias] == 1:
                found[weight] = bias
        return found

    def _weight_call(self, call: WeightCall, args: tuple[Any, ...], result: Any) -> None:
        output = result[0] if isinstance(result, tuple) else result
        if call.weight:
            self.calls[call.weight] += 1
        if call.kind == "norm":
            self._finder.norm(args, output)
            self._norm(call, output)
            return
        self._finder.weight_call(call, self.calls[call.weight] - 1, output)
        places = call.input if call.transposed else output  # each meets every entry once
        axis = 1 if call.kind == "conv" else -1
        self.work[call.weight] += places.numel() // places.shape[axis]
        self.biases.setdefault(call.weight, set()).update(call.extras or (None,))
        self._fresh[output] = call.weight
        if call.groups > 1:
            self._grouped(call, output)
        else:
            self._dense(call, output)

    def _dense(self, call: WeightCall, output: Tensor) -> None:
        axis = 1 if call.kind == "conv" else call.input.dim() - 1
        reads, writes = (0, 1) if call.transposed else (1, 0)
        seen = self.labels(call.input)
        if seen is not None:
            vector = along(seen, axis)
            if vector is None:
                self.sets.freeze(seen, f"{owner(call.weight)} mixes them with other channels")
                vector = torch.full((self.tensors[call.weight].shape[reads],), NONE)
            elif call.kind == "conv" and (call.transposed or call.input.dim() != 4):
                self.sets.freeze(seen, f"{owner(call.weight)} is not a plain 2-d convolution")
            self._consume(call, reads, vector)
        self._produce(call, writes, axis, output)

    def _consume(self, call: WeightCall, axis: int, vector: Tensor) -> None:
        weight = self.tensors[call.weight]
        self.readers[call.weight] = (weight.numel() // weight.shape[1 - axis], call.groups)
        self.use(call.weight, axis, "consume", vector)

    def _produce(self, call: WeightCall, writes: int, axis: int, output: Tensor) -> None:
        block = self.blocks.get(call.weight)
        if block is None:
            block = self.sets.new(self.tensors[call.weight].shape[writes])
            self.blocks[call.weight] = block
            if call.input not in self._from_images:
                self.sets.freeze(block, "they do not depend on the images")
            if call.groups > 1:
                self.tie(block, call.groups)
            self.produced[call.weight] = Produced(
                kind="linear" if call.kind == "linear" else "conv",
                output_size=tuple(output.shape[2:]) if call.kind == "conv" else (),
            )
            self.use(call.weight, writes, "produce", block)
        for extra in call.extras:  # two modules that hold one weight may have a bias each
            self.use(extra, 0, "follow", block)
        self.assign(output, spread(block, axis, output.shape), origin=call.weight)

    def _grouped(self, call: WeightCall, output: Tensor) -> None:
        """A grouped convolution: one input a group follows, more shrink alike in every group."""
        seen = self.labels(call.input)
        vector = None if seen is None else along(seen, 1)
        weight = self.tensors[call.weight]
        if weight.shape[1] == 1 and vector is not None and not call.transposed:
            each = vector.repeat_interleave(weight.shape[0] // call.groups)
            for name in (call.weight, *call.extras):
                self.use(name, 0, "follow", each)
            self.assign(output, spread(each, 1, output.shape), origin=call.weight)
            return
        plain = call.input.dim() == 4 and not call.transposed
        if seen is not None:
            if plain and vector is not None and self.tie(vector, call.groups):
                self._consume(call, 1, vector[: weight.shape[1]])
            else:
                self.sets.freeze(seen, f"{owner(call.weight)} is a grouped convolution")
        if weight.shape[1] > 1 and not call.transposed:
            self._produce(call, 0, 1, output)

    def _norm(self, call: WeightCall, output: Tensor) -> None:
        if call.mean is not None:
            self.calls_of_norm[call.mean] += 1
        seen = self.labels(call.input)
        if seen is None:
            return
        vector = along(seen, 1)
        if vector is None:
            self.sets.freeze(seen, "a normalisation mixes them")
            return
        if call.weight and isinstance(self.tensors[call.weight], nn.Parameter):
            self.scales[call.weight] = None
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

    Raises:
        ThinetError: If a module refuses to be pruned.
    """
    check_prunable(network)
    tracer = _Tracer(network)
    tracer.look_at(images)
    with evaluating(network), tracer:
        output = network(images)
    tracer.note_reading(output, None)
    for tensor in tree_leaves(output):
        labels = tracer.labels(tensor)
        if labels is not None:
            tracer.sets.freeze(labels, "they are the network's output")
    facts = Facts(
        produced=tracer.produced,
        calls=dict(tracer.calls),
        work={weight: work // len(images) for weight, work in tracer.work.items()},
        joins=dict(tracer.joins),
        readers=tracer.readers,
        shifts=tracer.shifts(),
        scales=tuple(tracer.scales),
        rectified=tuple((tracer.sets.roots(labels), tensor) for labels, tensor in tracer.rectified),
        frozen=tracer.sets.frozen(),
        summed=tracer.sets.summed(),
        whole=_whole(network, tracer),
    )
    return make_graph(tracer.rooted_uses(), facts)


def _whole(network: nn.Module, tracer: _Tracer) -> dict[str, str]:
    """Layers that the trace gave no labels, with the reason."""
    followed = {name for name, _ in tracer.uses}
    found = {}
    for name, module in network.named_modules():
        weight = module._parameters.get("weight")
        stored = None if weight is None else tracer.matcher.name(weight)
        if not isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) or stored in followed:
            continue
        if stored is None:
            found[name] = "its weight is computed from other tensors"
        elif tracer.calls[stored]:
            found[name] = "what it reads cannot be followed"
        else:
            found[name] = "it does not run by itself in eval() mode"
    return found

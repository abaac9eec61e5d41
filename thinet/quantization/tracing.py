"""One forward pass in ``eval()`` mode: who reads what, and which layers come first and last.

Tensors are told apart by their storage and by how often it was written to, so that views are what
they are views of, and what is done in place is seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from thinet.quantization.running import on_one_image, run_alone

# Operations that multiply, and where their two factors stand among the arguments.
_PRODUCTS = {
    "convolution": (0, 1), "linear": (0, 1), "mm": (0, 1), "bmm": (0, 1), "mv": (0, 1),
    "addmm": (1, 2), "baddbmm": (1, 2), "_addmm_activation": (1, 2), "addmv": (1, 2),
}  # fmt: skip
_COPIES = {"clone", "_to_copy", "contiguous", "lift_fresh"}  # the same numbers once more


@dataclass(eq=False)
class Call:
    """A module at work.

    Attributes:
        path: Of the module.
        module: In the copy that was traced.
    """

    path: str
    module: nn.Module


@dataclass(eq=False)
class Event:
    """An operation that computes.

    Attributes:
        operation: Its name in ATen; empty for the end of the network, which reads its output.
        call: The innermost module that it belongs to; None at the end of the network.
        reads: What it reads.
        made: What it makes.
    """

    operation: str
    call: Call | None
    reads: list[Value] = field(default_factory=list)
    made: list[Value] = field(default_factory=list)


@dataclass(eq=False)
class Value:
    """The numbers in a tensor and in all views of it, until one of them is written to.

    Attributes:
        made_by: What made it; None for images, parameters and buffers.
        readers: What reads it.
        fed: Whether it depends on the images.
        layers: Bits of the layer calls that it comes from with no layer between.
    """

    made_by: Event | None = None
    readers: list[Event] = field(default_factory=list)
    fed: bool = False
    layers: int = 0


@dataclass
class Trace:
    """One forward pass.

    Attributes:
        inputs: What each module read in each of its calls, by path; in order of execution.
        axes: The numbers of axes that those inputs had.
        first: Paths of modules that weigh the images themselves.
        last: Paths of modules whose outputs no other layer reads.
        foreign: Paths of modules whose parameters other code reads.
    """

    inputs: dict[str, list[Value | None]] = field(default_factory=dict)
    axes: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    first: set[str] = field(default_factory=set)
    last: set[str] = field(default_factory=set)
    foreign: set[str] = field(default_factory=set)


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self._stack: list[Call] = []
        self._values: dict[int, Value] = {}
        self._kept: list[Tensor] = []  # alive, so that no storage comes back as another one
        self._names: list[str] = []  # of the layer calls, by bit
        self._read: int = 0  # bits of the layer calls whose outputs another one reads
        self._owners: dict[int, set[str]] = defaultdict(set)
        for path, module in network.named_modules():
            for one in module._parameters.values():
                if one is not None:
                    self._owners[id(one)].add(path)

    def begin(self, path: str, module: nn.Module, given: Any) -> None:
        """A module is called."""
        self._stack.append(Call(path, module))
        first = next((one for one in _tensors(given)), None)
        value = None if first is None else self.value(first)
        self.trace.inputs.setdefault(path, []).append(value)
        if first is not None:
            self.trace.axes[path].add(first.dim())

    def end(self) -> None:
        """The module that was called last has ended."""
        self._stack.pop()

    def value(self, tensor: Tensor) -> Value:
        """What is in a tensor."""
        return self._values.setdefault(self._key(tensor), Value())

    def finish(self, output: Any) -> Trace:
        """Say that ``output`` is the network's."""
        for tensor in _tensors(output):
            self.value(tensor).readers.append(Event("", None))
        unread = (name for bit, name in enumerate(self._names) if not self._read >> bit & 1)
        self.trace.last = set(unread)
        return self.trace

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        before = {self._key(one): self.value(one) for one in given}
        result = func(*args, **kwargs)
        self._note_owners(given)
        written = {self._key(one) for one in _written(func, args, kwargs)}
        made = {self._key(one) for one in _tensors(result)}
        fresh = [key for key in made if key not in before or key in written]
        fresh += [key for key in written if key not in made]
        operation = func._schema.name.removeprefix("aten::")
        if operation in _COPIES and not written:
            for key in fresh:
                self._values[key] = next(iter(before.values()), Value())
        elif fresh or not made:  # else a view
            self._compute(operation, args, list(before.values()), fresh)
        return result

    def _compute(self, operation: str, args: Any, reads: list[Value], fresh: list[int]) -> None:
        event = Event(operation, self._stack[-1] if self._stack else None, reads)
        layers = 0
        for value in reads:
            value.readers.append(event)
            layers |= value.layers
        if self._is_layer(operation, args):
            layers = self._layer(event, layers)
        for key in fresh:
            made = Value(event, fed=any(value.fed for value in reads), layers=layers)
            self._values[key] = made
            event.made.append(made)

    def _layer(self, event: Event, layers: int) -> int:
        path = event.call.path if event.call is not None else ""
        if not layers:
            self.trace.first.add(path)
        self._read |= layers
        self._names.append(path)
        return 1 << (len(self._names) - 1)

    def _is_layer(self, operation: str, args: Any) -> bool:
        """Whether activations meet weights; two activations meet in attention."""
        places = _PRODUCTS.get(operation, ())
        fed = [self.value(args[place]).fed for place in places]
        return any(fed) and (operation == "convolution" or not all(fed))

    def _note_owners(self, given: list[Tensor]) -> None:
        here = self._stack[-1].path if self._stack else None
        for one in given:
            owners = self._owners.get(id(one), set())
            if here not in owners:
                self.trace.foreign |= owners

    def _key(self, tensor: Tensor) -> int:
        try:
            key = int(tensor.untyped_storage()._cdata)
        except (NotImplementedError, RuntimeError):  # sparse ones and wrappers have none
            key = id(tensor)
        if key not in self._values:
            self._kept.append(tensor)
        return key


def traced(network: nn.Module, images: Tensor) -> Trace:
    """Run a copy of the network; see :func:`thinet.quantization.running.on_one_image`."""
    return on_one_image(network, images, _passed)


def _passed(copy: nn.Module, images: Tensor) -> Trace:
    tracer = _Tracer(copy)
    for path, module in copy.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # takes no hooks: what happens inside counts for the module around it
        module.register_forward_pre_hook(_begins(tracer, path), with_kwargs=True)
        module.register_forward_hook(lambda *_: tracer.end())
    tracer.value(images).fed = True
    return tracer.finish(run_alone(copy, images, tracer))


def _begins(tracer: _Tracer, path: str) -> Callable[..., None]:
    return lambda module, args, kwargs: tracer.begin(path, module, (args, kwargs))


def _tensors(values: Any) -> list[Tensor]:
    return [one for one in tree_leaves(values) if isinstance(one, Tensor)]


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments that an operation writes to."""
    if not func._schema.is_mutable:
        return []
    found = []
    for place, argument in enumerate(func._schema.arguments):
        given = args[place] if place < len(args) else kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += _tensors(given)
    return found

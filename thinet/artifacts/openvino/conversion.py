"""From a network to a graph of OpenVINO.

Float modules are converted by OpenVINO's own PyTorch frontend; a module that has an equivalent of
its own there, such as a binary layer, says what it is: :class:`Lowers`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from thinet.artifacts.openvino.package import openvino
from thinet.base.errors import ThinetError, first_line
from thinet.surgery import shared_copy


@runtime_checkable
class Lowers(Protocol):
    """A module that says itself which operations of OpenVINO it is made of."""

    def lowered(self, given: Any) -> Any:
        """Its output as a node of the graph, made from the output of a node that it is given.

        All axes of that one but the first have lengths that are known.

        Raises:
            ThinetError: If it has no such equivalent.
        """

    def rounding(self, given: Tensor, near: float) -> Tensor:
        """See :class:`thinet.artifacts.parity.Rounds`; its shape broadcasts with the output's."""


@dataclass(frozen=True)
class Converted:
    """A graph whose batch may have any size.

    Attributes:
        graph: An ``openvino.Model``.
        calls: The paths of lowered modules in the order of their calls. The tensors that call i
            reads and makes are named ``call.i.given`` and ``call.i.made``, and its nodes
            ``call.i/...``.
    """

    graph: Any
    calls: tuple[str, ...]


def converted(network: nn.Module, input_shape: tuple[int, ...]) -> Converted:
    """The graph of a network in float32 on the CPU, unchecked.

    Raises:
        ThinetError: If it cannot be converted.
    """
    network, images = shared_copy(network).eval(), torch.zeros(2, *input_shape)
    lowering = {path: one for path, one in network.named_modules() if isinstance(one, Lowers)}
    try:
        replay = _Replay(network, images, lowering.values())
    except Exception as error:  # whatever the network's own code raises
        raise ThinetError(
            f"the network does not run on images of the shape {tuple(input_shape)} "
            f"({first_line(error)}): pass the input_shape that it was made for."
        ) from error
    lowered = _Lowered(replay)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            graph = _graph(network, images, lowering, lowered)
    except Exception as error:  # the frontend raises nearly anything
        cause = lowered.error or error
        if isinstance(cause, ThinetError):
            raise cause from None
        raise ThinetError(f"the network cannot be converted ({first_line(cause)}).") from error
    return Converted(graph, lowered.name())


def _graph(
    network: nn.Module, images: Tensor, lowering: Mapping[str, Lowers], lowered: _Lowered
) -> Any:
    package = openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch import ConversionExtension, ModuleExtension
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    modules: dict[Any, Any] = {}
    for path, module in lowering.items():
        name = f"thinet::module_{len(modules)}"
        modules[module] = ModuleExtension(module, name, evaluate=lowered.replay)
        frontend.add_extension(ConversionExtension(name, lowered.conversion(path, module)))
    decoder = TorchScriptPythonDecoder(
        network, example_input=images, module_extensions=modules,
        trace_kwargs={"check_trace": False},
        shared_memory=False,  # training the network further must not change the graph
    )  # fmt: skip
    model = frontend.load(decoder)
    shape = package.PartialShape([-1, *images.shape[1:]])
    model.set_partial_shape(model.get_inputs()[0], shape)
    return frontend.convert(model)


class _Replay:
    """The calls of some modules in a pass: the tracer may not look into what they do.

    Attributes:
        shapes: Of the inputs of each module's calls, without the batch.
    """

    @torch.no_grad()
    def __init__(self, network: nn.Module, images: Tensor, modules: Iterable[Any]) -> None:
        self.shapes: dict[Any, list[tuple[int, ...]]] = {module: [] for module in modules}
        self._made: dict[Any, list[Tensor]] = {module: [] for module in self.shapes}
        hooks = [module.register_forward_hook(self._note) for module in self.shapes]
        network(images)
        for hook in hooks:
            hook.remove()

    def _note(self, module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        self.shapes[module].append(tuple(given[0].shape[1:]))
        self._made[module].append(made)

    def __call__(self, module: nn.Module, _: Tensor) -> Tensor:
        """The outputs once more, call by call."""
        return self._made[module].pop(0)


@dataclass
class _Lowered:
    """What was done during a conversion: for each call the module's path, its input and output."""

    replay: _Replay
    calls: list[tuple[str, Any, Any]] = field(default_factory=list)
    error: Exception | None = None  # the frontend swallows it

    def conversion(self, path: str, module: Lowers) -> Callable[[Any], list[Any]]:
        """Of the module at ``path``."""

        def convert(context: Any) -> list[Any]:
            given = _with_sizes(context.get_input(0), self.replay.shapes[module].pop(0))
            try:
                made = module.lowered(given)
            except Exception as error:
                self.error = error
                raise
            _name_nodes(made, given.get_node(), f"call.{len(self.calls)}")
            self.calls.append((path, given, made.output(0)))
            return list(made.outputs())

        return convert

    def name(self) -> tuple[str, ...]:
        """Name the tensors of all calls, when the frontend has no use of its own for names."""
        for index, (_, given, made) in enumerate(self.calls):
            given.add_names({f"call.{index}.given"})
            made.add_names({f"call.{index}.made"})
        return tuple(path for path, *_ in self.calls)


def _with_sizes(given: Any, shape: tuple[int, ...]) -> Any:
    """``given``, all axes of which but the first are known to be as long as in torch."""
    found = given.get_partial_shape()
    if found.rank.is_static and all(one.is_static for one in list(found)[1:]):
        return given
    from openvino import opset13

    return opset13.reshape(given, [-1, *shape], special_zero=False).output(0)


def _name_nodes(last: Any, first: Any, call: str) -> None:
    """Let the names of the nodes behind ``first`` up to ``last`` tell which call they belong to."""
    open_, seen = [last], {first.get_name()}
    while open_:
        node = open_.pop()
        if node.get_name() in seen:
            continue
        seen.add(node.get_name())
        node.set_friendly_name(f"{call}/{node.get_name()}")
        open_.extend(one.get_node() for one in node.input_values())

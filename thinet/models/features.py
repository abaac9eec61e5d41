"""What a network knows of an image before it names a class: the input of its classifier.

The classifier is found by following one forward pass backwards, from the logits to the layer that
they come from, so that neither names nor the order of modules matter.
"""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from thinet.base.errors import ThinetError, first_line
from thinet.surgery import evaluating

ADVICE = "type distill.feature=<module>, the module whose input is the feature"
# What may stand between a classifier and the logits: they stay an affine function of what it
# gives, position by position, but for a rectifier (SqueezeNet's) or a maximum over positions.
_RESHAPING = {
    "View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Alias", "Clone", "ToCopy",
    "Permute", "Transpose", "T",
}  # fmt: skip
_POOLING = {
    "Mean", "AdaptiveAvgPool1D", "AdaptiveAvgPool2D", "AvgPool2D", "MaxPool2DWithIndices",
    "AdaptiveMaxPool2D", "Amax",
}  # fmt: skip
_SCALING = {"Mul", "Div", "Add", "Sub", "NativeBatchNorm", "CudnnBatchNorm"}
_CHOOSING = {"Select", "Slice", "Index"}
_BENDING = {"Relu", "LogSoftmax"}  # logits may be shifted: probabilities stay the same
_PASSING = _RESHAPING | _POOLING | _SCALING | _CHOOSING | _BENDING
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Feature:
    """Where a network's features are read.

    Attributes:
        module: Dotted name of the classifier: the module whose input is the feature.
        length: Of one image's feature. Of a map ``(N, d, h, w)`` the number of channels ``d``.
    """

    module: str
    length: int


def find_feature(network: nn.Module, images: Tensor, name: str | None = None) -> Feature:
    """The input of the classifier, found from one forward pass in ``eval()`` mode.

    The classifier is the linear layer, the convolution or the module with a weight matrix of its
    own whose output becomes the logits by nothing but reshaping, pooling, scaling, dropout, a
    rectifier or a log-softmax. A map ``(N, d, h, w)`` and tokens ``(N, ..., d)`` that a linear
    layer or a LayerNorm reads are averaged over their positions; other tokens are refused.

    Nothing is changed by the pass: no mode, buffer, hook or random state.

    Args:
        network: Any network that classifies; a DDP wrapper around it is looked through. On the
            ``meta`` device no number is computed.
        images: ``(N, C, H, W)``, any, on the network's device.
        name: The module whose input is the feature, if it is not the classifier's.

    Returns:
        The module and the length of its feature.

    Raises:
        ThinetError: If there is no such module, it does not read one feature an image, or the
            logits do not come from one layer.
        NotImplementedError: On the ``meta`` device, if the pass needs numbers or an operation that
            has no meta version: this says nothing about the network.
    """
    network = _bare(network)
    modules = dict(network.named_modules(remove_duplicate=False))
    if name is not None and (not name or name not in modules):
        near = get_close_matches(name, [one for one in modules if one], n=3)
        hint = f"did you mean {', '.join(near)}? Type" if near else "type"
        raise ThinetError(
            f"the network has no module called {name!r}; {hint} distill.feature=<module>, with a "
            "name of network.named_modules()."
        )
    if any(is_lazy(one) for one in [*network.parameters(), *network.buffers()]):
        raise ThinetError("the network has weights without a shape: run it once before this.")
    seen = _watch(network, images, name)
    logits = _logits_of(seen)
    if name is None:
        name = _classifier(seen, logits, modules)
    return Feature(name, _length(seen, name, modules[name]))


@contextmanager
def reading(network: nn.Module, feature: Feature) -> Iterator[Callable[[], Tensor]]:
    """Within, the features of the last forward pass can be read.

    Args:
        network: The one in which ``feature`` was found, a copy, or a DDP wrapper around it; in any
            mode, precision and on any device.
        feature: From :func:`find_feature`.

    Yields:
        A function that gives the features ``(N, d)`` of the last pass, with gradient to what they
        were computed from. It raises a ThinetError if the module did not run exactly once in it.
    """
    network = _bare(network)
    target = network.get_submodule(feature.module)
    found: list[Tensor] = []
    running = False

    # Of each hook: it does nothing in a copy that was made meanwhile, hooks and all.
    def begin(module: nn.Module, *_: Any) -> None:
        nonlocal running
        if module is network:
            running = True
            found.clear()

    def end(module: nn.Module, *_: Any) -> None:
        nonlocal running
        running = running and module is not network

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if running and module is target:
            (given,) = _tensors(args, kwargs)
            found.append(_vectors(module, given))

    def read() -> Tensor:
        if len(found) != 1:
            raise ThinetError(
                f"{feature.module} was called {len(found)} times in a forward pass, where its "
                f"input should be read: {ADVICE} and runs once, in training too."
            )
        return found[0]

    handles = [network.register_forward_pre_hook(begin)]
    handles.append(network.register_forward_hook(end, always_call=True))
    handles.append(target.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()
        found.clear()


def embedded(network: nn.Module, feature: Feature, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``(N, K)`` and features ``(N, d)`` of one forward pass, run as the network is.

    Args:
        network: See :func:`reading`.
        feature: From :func:`find_feature`.
        images: ``(N, C, H, W)``.

    Returns:
        Both, with gradient if it is being recorded.

    Raises:
        ThinetError: If there are no logits, or the feature was not read exactly once.
    """
    with reading(network, feature) as read:
        logits = _logits(network(images))
        return logits, read()


def _bare(network: nn.Module) -> nn.Module:
    return network.module if isinstance(network, DistributedDataParallel) else network


def _vectors(module: nn.Module, given: Tensor) -> Tensor:
    """One feature an image; a copy, since what the module reads may be overwritten."""
    axis = _channels(module, given)
    if axis is None:
        raise ThinetError(f"{_shape(given)} is no feature of a batch: {ADVICE}.")
    if given.dim() == 2:
        return given.clone()
    positions = [one for one in range(1, given.dim()) if one != axis]
    full = torch.float32 if given.element_size() < 4 else given.dtype
    return given.mean(positions, dtype=full).to(given.dtype)


def _channels(module: nn.Module, given: Tensor) -> int | None:
    """The axis along which a feature lies, or None if that cannot be known."""
    if given.dim() == 2:
        return 1
    if given.dim() > 2 and (isinstance(module, nn.Linear) or type(module) is nn.LayerNorm):
        return given.dim() - 1
    return 1 if given.dim() == 4 else None


@dataclass
class _Seen:
    """One forward pass.

    Attributes:
        count: Of the images.
        start: The autograd node that the images come from.
        output: Whatever the network gave.
        made_by: The module that made the output of an autograd node.
        calls: Of each watched module.
        inputs: Of each watched module, in its last call.
        outputs: Likewise, their shapes.
    """

    count: int
    start: Any = None
    output: Any = None
    made_by: dict[Any, str] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    outputs: dict[str, torch.Size] = field(default_factory=dict)


def _watch(network: nn.Module, images: Tensor, name: str | None) -> _Seen:
    """Run the network, recording the graph of autograd, which knows all that is done in place."""
    images = images if len(images) > 1 else torch.cat([images, images])  # to see which axis is N
    seen, handles = _Seen(len(images)), []
    for own, module in network.named_modules(remove_duplicate=False):
        if own == name or (name is None and _is_layer(module)):
            watcher = _watcher(seen, own)
            handles.append(module.register_forward_hook(watcher, with_kwargs=True))
    devices = [images.device] if images.device.type == "cuda" else []
    # Buffers are written to as copies: a network may do so in eval() mode too.
    try:
        with (
            torch.random.fork_rng(devices), evaluating(network),
            torch.inference_mode(False), torch.enable_grad(),
        ):  # fmt: skip
            buffers = {key: one.clone() for key, one in network.named_buffers()}
            given = images.detach().clone().requires_grad_().clone()  # may be written to
            seen.start = given.grad_fn
            seen.output = torch.func.functional_call(network, buffers, (given,))
    except Exception as error:  # networks complain in every way there is
        if images.is_meta and (isinstance(error, NotImplementedError) or "meta" in str(error)):
            raise NotImplementedError(first_line(error)) from error
        reason = textwrap.shorten(first_line(error), 120, placeholder=" ...")
        size = "x".join(map(str, images.shape[1:]))
        raise ThinetError(
            f"the network does not run on images of {size} ({reason}): "
            "give it images of the size that it was made for, with dataset.image_size."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _watcher(seen: _Seen, name: str) -> Callable[..., None]:
    def watch(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen.calls[name] += 1
        seen.inputs[name] = [one.detach() for one in _tensors(args, kwargs)]
        if isinstance(output, Tensor) and output.grad_fn is not None:
            seen.made_by.setdefault(output.grad_fn, name)
            seen.outputs[name] = output.shape

    return watch


def _tensors(args: Any, kwargs: Any) -> list[Tensor]:
    return [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]


def _is_layer(module: nn.Module) -> bool:
    """Whether it maps features by weights of its own, and is not a block of such layers."""
    if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
        return True
    if isinstance(module, _NORMS):
        return False
    children = (child for name, child in module.named_children() if name != "parametrizations")
    if any(True for child in children for _ in child.parameters()):
        return False
    own = [*module._parameters.values()]
    own += [*getattr(module, "parametrizations", nn.Module()).parameters()]
    return any(one is not None and sum(size > 1 for size in one.shape) > 1 for one in own)


def _logits(output: object) -> Tensor:
    """The output, or its ``logits`` (auxiliary heads in training mode, Hugging Face)."""
    found: object = output
    if not isinstance(found, Tensor):
        found = getattr(output, "logits", None)
    if not isinstance(found, Tensor) and isinstance(output, Mapping):
        found = output.get("logits")
    if isinstance(found, Tensor):
        return found
    raise ThinetError(
        f"the network gives a {type(output).__name__} where logits are expected: "
        "wrap it in a module that returns the tensor of its logits (N, classes) alone."
    )


def _logits_of(seen: _Seen) -> Tensor:
    logits = _logits(seen.output)
    if logits.dim() != 2 or len(logits) != seen.count:
        raise ThinetError(
            f"the network does not classify: for {seen.count} images it gives {_shape(logits)} "
            f"and not {seen.count} rows of logits; choose another network."
        )
    return logits


def _classifier(seen: _Seen, logits: Tensor, modules: Mapping[str, nn.Module]) -> str:
    """The module that the logits come from.

    Raises:
        ThinetError: If that is not one, or something stands between.
    """
    stops = {**seen.made_by, seen.start: None}
    sources, useful = _sources(logits.grad_fn, stops)
    names = sorted(name for name in sources if name is not None)
    if not names:
        raise ThinetError(
            f"the network has no linear layer or convolution that its logits come from: {ADVICE}."
        )
    if len(sources) > 1:
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        what = listed if len(names) > 1 else f"{listed} and from the images by another way"
        raise ThinetError(f"the logits do not come from one layer (but from {what}): {ADVICE}.")
    (name,) = names
    shape = seen.outputs[name]
    places = 1 if len(shape) == 2 else shape.numel() // logits.numel()
    node: Any = logits.grad_fn
    while node not in stops:
        ways = [way for way, _ in node.next_functions if way in useful]
        operation = type(node).__name__.split("Backward")[0]
        chosen = operation in _CHOOSING and places > 1
        if len(ways) > 1 or operation not in _PASSING or chosen:
            raise ThinetError(
                f"the logits are not what {name} gives ({operation} stands between): {ADVICE}."
            )
        node = ways[0]
    return name


def _sources(end: Any, stops: Mapping[Any, str | None]) -> tuple[set[str | None], set[Any]]:
    """The stops that an autograd node was computed from, and all nodes on the way to them."""
    parents: dict[Any, list[Any]] = defaultdict(list)
    queue, reached = [end] if end is not None else [], []
    known = set(queue)
    while queue:
        node = queue.pop()
        if node in stops:
            reached.append(node)
            continue
        for way, _ in node.next_functions:
            if way is None:
                continue
            parents[way].append(node)
            if way not in known:
                known.add(way)
                queue.append(way)
    useful, queue = set(reached), list(reached)
    while queue:
        for parent in parents[queue.pop()]:
            if parent not in useful:
                useful.add(parent)
                queue.append(parent)
    return {stops[node] for node in reached}, useful


def _length(seen: _Seen, name: str, module: nn.Module) -> int:
    """How long the feature is that a module reads.

    Raises:
        ThinetError: If it does not read one of each image.
    """
    if seen.calls[name] != 1:
        raise ThinetError(
            f"{name} is called {seen.calls[name]} times in a forward pass, but the feature is "
            f"what is read once: {ADVICE}."
        )
    given = seen.inputs[name]
    if len(given) != 1:
        raise ThinetError(f"{name} reads {len(given)} tensors, but the feature is one: {ADVICE}.")
    axis = _channels(module, given[0])
    if axis is None or not given[0].is_floating_point():
        raise ThinetError(
            f"{name} reads {given[0].dtype} of {_shape(given[0])}, but the feature is a vector or "
            f"a map of each image: {ADVICE}."
        )
    if len(given[0]) != seen.count:
        raise ThinetError(
            f"{name} reads {_shape(given[0])} for {seen.count} images, but the first axis has to "
            f"be theirs: {ADVICE}."
        )
    return int(given[0].shape[axis])


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"

"""From the logits of one forward pass back to the layer that they come from."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
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


@dataclass
class Seen:
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


def watch(network: nn.Module, images: Tensor, name: str | None) -> Seen:
    """Run the network, recording the graph of autograd, which knows all that is done in place.

    Args:
        network: Run in ``eval()`` mode and left as it was.
        images: ``(N, C, H, W)``; of one image two copies are run.
        name: The module to watch; None for every layer.

    Raises:
        ThinetError: If the network does not run on the images.
        NotImplementedError: On the ``meta`` device, if it might run elsewhere.
    """
    images = images if len(images) > 1 else torch.cat([images, images])  # to see which axis is N
    seen, handles = Seen(len(images)), []
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


def _watcher(seen: Seen, name: str) -> Callable[..., None]:
    def watch(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen.calls[name] += 1
        seen.inputs[name] = [one.detach() for one in tensors_in(args, kwargs)]
        if isinstance(output, Tensor) and output.grad_fn is not None:
            seen.made_by.setdefault(output.grad_fn, name)
            seen.outputs[name] = output.shape

    return watch


def tensors_in(args: Any, kwargs: Any) -> list[Tensor]:
    """All that a module was called with, however it was nested."""
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


def logits_in(output: object) -> Tensor:
    """The output, or its ``logits`` (auxiliary heads in training mode, Hugging Face).

    Raises:
        ThinetError: If it has none.
    """
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


def logits_of(seen: Seen) -> Tensor:
    """The logits ``(N, K)`` of a pass.

    Raises:
        ThinetError: If the network gives something else.
    """
    logits = logits_in(seen.output)
    if logits.dim() != 2 or len(logits) != seen.count:
        raise ThinetError(
            f"the network does not classify: for {seen.count} images it gives {shape_of(logits)} "
            f"and not {seen.count} rows of logits; choose another network."
        )
    return logits


def classifier_of(seen: Seen, logits: Tensor, modules: Mapping[str, nn.Module]) -> str:
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


def shape_of(tensor: Tensor) -> str:
    """For a sentence: ``2x6``."""
    return "x".join(map(str, tensor.shape)) or "one number"

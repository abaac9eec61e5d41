"""What a network knows of an image before it names a class: the input of its classifier.

The classifier is found by following one forward pass backwards, from the logits to the layer that
they come from, so that neither names nor the order of modules matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from thinet.base.errors import ThinetError
from thinet.models.classifier import (
    ADVICE,
    Seen,
    classifier_of,
    logits_in,
    logits_of,
    shape_of,
    tensors_in,
    watch,
)


@dataclass(frozen=True)
class Feature:
    """Where a network's features are read.

    Attributes:
        module: Dotted name of the classifier: the module whose input is the feature.
        length: Of one image's feature. Of a map ``(N, d, h, w)`` the number of channels ``d``.
        pooled: Whether it is averaged over positions of what the module reads.
    """

    module: str
    length: int
    pooled: bool = False


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
    seen = watch(network, images, name)
    logits = logits_of(seen)
    if name is None:
        name = classifier_of(seen, logits, modules)
    return _read_by(seen, name, modules[name])


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

    # A copy that is made meanwhile has these hooks too: its own passes do not count.
    def begin(module: nn.Module, *_: Any) -> None:
        nonlocal running
        if module is network:
            running = True
            found.clear()

    def end(module: nn.Module, *_: Any) -> None:
        nonlocal running
        running = running and module is not network

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if running:
            (given,) = tensors_in(args, kwargs)
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
        logits = logits_in(network(images))
        return logits, read()


def _bare(network: nn.Module) -> nn.Module:
    return network.module if isinstance(network, DistributedDataParallel) else network


def _vectors(module: nn.Module, given: Tensor) -> Tensor:
    """One feature an image; a copy, where what the module reads may be overwritten."""
    axis = _channels(module, given)
    if axis is None:
        raise ThinetError(f"{shape_of(given)} is no feature of a batch: {ADVICE}.")
    if given.dim() == 2:  # itself for a linear layer, so that gradients of the logits reach it
        return given if isinstance(module, nn.Linear) else given.clone()
    positions = [one for one in range(1, given.dim()) if one != axis]
    return given.mean(positions)


def _channels(module: nn.Module, given: Tensor) -> int | None:
    """The axis along which a feature lies, or None if that cannot be known."""
    if given.dim() == 2:
        return 1
    if given.dim() > 2 and (isinstance(module, nn.Linear) or type(module) is nn.LayerNorm):
        return given.dim() - 1
    return 1 if given.dim() == 4 else None


def _read_by(seen: Seen, name: str, module: nn.Module) -> Feature:
    """The feature that a module reads.

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
            f"{name} reads {given[0].dtype} of {shape_of(given[0])}, but the feature is a "
            f"vector or a map of each image: {ADVICE}."
        )
    if len(given[0]) != seen.count:
        raise ThinetError(
            f"{name} reads {shape_of(given[0])} for {seen.count} images, but the first axis has to "
            f"be theirs: {ADVICE}."
        )
    return Feature(name, int(given[0].shape[axis]), given[0].dim() > 2)

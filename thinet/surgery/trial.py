"""Trying a plan on a copy before anything is cut: zeroing must equal removing."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from thinet.base.errors import ThinetError
from thinet.base.values import shown
from thinet.surgery.graph import ChannelGraph
from thinet.surgery.modes import full_float32
from thinet.surgery.slim import remove_, shared_copy
from thinet.surgery.verify import difference, masked

TOLERANCE = 1e-4
"""Largest relative difference between zeroing and removing that float32 rounding explains."""


def check_network(network: object) -> nn.Module:
    """``network``, if it is one.

    Raises:
        ThinetError: If it is something else.
    """
    if not isinstance(network, nn.Module):
        what = "a class: call it to make one" if isinstance(network, type) else shown(network)
        raise ThinetError(f"the network is {what}, but it has to be a torch.nn.Module.")
    return network


def check_weights(network: nn.Module) -> None:
    """Refuse weights that are not finite: a trial might cut just those away.

    Raises:
        ThinetError: Naming the first such tensor, or one that has no shape yet.
    """
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if is_lazy(tensor):
            raise ThinetError(f"{name} has no shape yet: run the network once before pruning it.")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ThinetError(
                f"{name} holds values that are not finite (NaN or infinite): give other weights, "
                "or train the network again with a smaller learning rate."
            )


def settle(
    network: nn.Module,
    graph: ChannelGraph,
    counts: Mapping[str, int],
    images: Tensor,
    asked: Collection[str] = (),
) -> tuple[dict[str, int], dict[str, str]]:
    """Find out which cuts of a plan obey the law, leaving out groups that do not.

    Any units do for the trial, since the law does not depend on which go. If the whole plan passes,
    that is one trial; if it does not, halves of it are tried until the groups at fault are found.

    Args:
        network: The network to prune; on the ``meta`` device only shapes are tried.
        graph: Its trace.
        counts: Kept units of each group.
        images: A batch of at least one image.
        asked: Groups that were asked for by name: if one of them fails, that is an error.

    Returns:
        The counts that pass together, and for each group left out the reason.

    Raises:
        ThinetError: If a group in ``asked`` fails, or no group passes.
    """
    fault = try_cut(network, graph, counts, images)
    if fault is None:
        return dict(counts), {}
    faults = _faults(network, graph, counts, images, fault)
    left = {name: n for name, n in counts.items() if name not in faults}
    for name in asked:
        if name in faults:
            raise ThinetError(f"layer {name} cannot be pruned: {faults[name]}; leave it out.")
    if not left or (len(left) < len(counts) and try_cut(network, graph, left, images)):
        left = {}
    if not left or len(left) == len(counts):
        raise ThinetError(
            f"this network cannot be pruned as planned: {fault}; "
            "prune other layers with layers=[...]."
        )
    return left, faults


def _faults(
    network: nn.Module,
    graph: ChannelGraph,
    counts: Mapping[str, int],
    images: Tensor,
    fault: str,
) -> dict[str, str]:
    """Which groups of a plan that failed with ``fault`` fail by themselves, and how."""
    names = list(counts)
    if len(names) == 1:
        return {names[0]: fault}
    found: dict[str, str] = {}
    for half in (names[: len(names) // 2], names[len(names) // 2 :]):
        part = {name: counts[name] for name in half}
        own = try_cut(network, graph, part, images)
        if own is not None:
            found |= _faults(network, graph, part, images, own)
    return found


def try_cut(
    network: nn.Module, graph: ChannelGraph, counts: Mapping[str, int], images: Tensor
) -> str | None:
    """Cut a copy and compare it with one in which the same channels are zeroed.

    They are compared in full float32, networks and images of half precision too: coarser rounding
    would hide a wrong cut, or refuse a right one.

    Returns:
        What is wrong, or None if zeroing equals removing.
    """
    first = next(network.parameters())
    images = images.to(first.device)
    if first.dtype in (torch.float16, torch.bfloat16):
        network, images = copy.deepcopy(network).float(), images.float()
    generator = torch.Generator().manual_seed(0)
    keep = {
        name: torch.randperm(graph.groups[name].units, generator=generator)[:count]
        .sort()[0]
        .tolist()
        for name, count in counts.items()
    }
    slim = remove_(shared_copy(network), graph, keep)
    try:
        with full_float32(first.device):
            off = difference(masked(network, graph, keep), slim, images)
            _check_training(network, slim, images)
    # The network's own code may object to its new sizes with any exception.
    except Exception as error:
        brief = (str(error).strip() or type(error).__name__).splitlines()[0]
        return (
            f"it does not run once filters are removed ({brief}), because it holds sizes written "
            "as numbers"
        )
    if not off <= TOLERANCE:
        return (
            f"removing filters changes its output by {off:.1e} more than zeroing them, because "
            "channels are used in a way that is not understood"
        )
    return None


def _check_training(network: nn.Module, slim: nn.Module, images: Tensor) -> None:
    """Raise what ``slim`` raises in ``train()`` mode, if ``network`` raises nothing.

    A branch that runs in training alone (an auxiliary classifier) is not in the trace.
    """
    if len(images) < 2:
        return  # BatchNorm has no variance
    error = _training_error(slim, images)
    if error is not None and _training_error(network, images) is None:
        raise error


@torch.no_grad()
def _training_error(network: nn.Module, images: Tensor) -> Exception | None:
    twin = shared_copy(network).train()
    for module in twin.modules():  # the running statistics change, so they must not be shared
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.clone()
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        try:
            twin(images)
        except Exception as error:
            return error
    return None

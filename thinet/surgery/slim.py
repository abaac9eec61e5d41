"""Physically removing channels from a network."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thinet.surgery.graph import ChannelGraph, Use
from thinet.surgery.labels import among
from thinet.surgery.modes import evaluating


def shared_copy(
    network: nn.Module,
    device: str | None = None,
    replaced: Mapping[int, nn.Parameter] | None = None,
) -> nn.Module:
    """A copy of the modules of ``network`` that copies no large tensor.

    Args:
        network: What to copy.
        device: ``"meta"`` for a copy without any data; None to share the tensors themselves, so
            that :func:`remove_` on the copy leaves the original whole.
        replaced: Parameters to put in the place of others, by ``id`` of those.
    """
    memo: dict[int, Any] = {}
    for tensor in [*network.parameters(), *network.buffers()]:
        if device is None:
            memo[id(tensor)] = tensor
        else:
            moved = tensor.detach().to(device)
            memo[id(tensor)] = (
                nn.Parameter(moved, requires_grad=tensor.requires_grad)
                if isinstance(tensor, nn.Parameter)
                else moved
            )
    return copy.deepcopy(network, memo | dict(replaced or {}))


@torch.no_grad()
def remove_(
    network: nn.Module, graph: ChannelGraph, keep: Mapping[str, Sequence[int]]
) -> nn.Module:
    """Remove in place every unit that ``keep`` leaves out, and all that belongs to it.

    A filter goes with its bias, its entries in the normalisations behind it and the input channels
    of the layers that read it. Parameters are replaced by new, smaller ones: an optimizer that
    holds the old ones must be made anew.

    Args:
        network: The network that ``graph`` describes.
        graph: From :func:`thinet.surgery.trace.trace` of this very network.
        keep: Kept units of each group to prune, by name.

    Returns:
        ``network``.
    """
    gone = graph.removed_labels(keep)
    tensors: dict[str, Tensor] = {
        **dict(network.named_parameters()),
        **dict(network.named_buffers()),
    }
    smaller: dict[int, Tensor] = {}
    of_tensor: dict[str, list[Use]] = defaultdict(list)
    for use in graph.uses:
        of_tensor[use.tensor].append(use)
    for name, uses in of_tensor.items():
        old = new = tensors[name]
        for use in uses:
            stays = torch.nonzero(~among(use.labels, gone)).flatten()
            if len(stays) < use.labels.numel():
                new = new.detach().index_select(use.axis, stays.to(old.device))
        if new is not old:
            smaller[id(old)] = (
                nn.Parameter(_laid_out_as(old, new), requires_grad=old.requires_grad)
                if isinstance(old, nn.Parameter)
                else _laid_out_as(old, new)
            )
    follows = [use.tensor for use in graph.uses if use.role == "follow" and use.axis == 0]
    _replace(network, smaller, {id(tensors[name]) for name in follows})
    return network


def _laid_out_as(old: Tensor, new: Tensor) -> Tensor:
    """``new`` densely in the memory format of ``old`` (``channels_last`` stays so)."""
    last = old.dim() == 4 and not old.is_contiguous()
    last = last and old.is_contiguous(memory_format=torch.channels_last)
    return new.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _replace(network: nn.Module, smaller: dict[int, Tensor], follows: set[int]) -> None:
    for module in network.modules():
        touched = False
        deep = id(module._parameters.get("weight")) in follows
        for tensors in (module._parameters, module._buffers):
            for name, tensor in list(tensors.items()):
                if tensor is not None and id(tensor) in smaller:
                    tensors[name] = smaller[id(tensor)]  # type: ignore[assignment]
                    # The constructor makes it at full width: from now on it has to be kept.
                    module._non_persistent_buffers_set.discard(name)
                    touched = True
        if touched:
            set_widths_(module, widths(module, deep))


def widths(module: nn.Module, deep: bool | None = None) -> dict[str, int]:
    """The constructor sizes that the shapes of a module's own tensors imply.

    Args:
        module: Any module; its sizes are those from before its tensors were replaced.
        deep: Whether the filters of a convolution follow its inputs (depthwise); None if all that
            is known is how it was constructed.

    Returns:
        For example ``{"in_channels": 3, "out_channels": 19, "groups": 1}``; empty for modules
        without such sizes.
    """
    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase)
    weight = _weight(module) if isinstance(module, kinds) else None
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        assert isinstance(weight, Tensor)
        return {"in_channels": weight.shape[0], "out_channels": weight.shape[1] * module.groups}
    if isinstance(module, nn.modules.conv._ConvNd):
        assert isinstance(weight, Tensor)
        filters, per_group = int(weight.shape[0]), int(weight.shape[1])
        # One input a group (depthwise): its filters, one or several, go with it. Where groups had
        # several inputs and are down to one, there are as many groups as before.
        if deep is None:
            deep = module.groups == module.in_channels
        deep = deep and per_group == 1 < module.groups
        each = module.out_channels // module.groups
        groups = filters // each if deep else module.groups
        return {"out_channels": filters, "in_channels": per_group * groups, "groups": groups}
    if isinstance(module, nn.Linear):
        assert isinstance(weight, Tensor)
        return {"out_features": int(weight.shape[0]), "in_features": int(weight.shape[1])}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        entries = weight if weight is not None else module.running_mean
        return {"num_features": int(entries.shape[0])} if isinstance(entries, Tensor) else {}
    return {}


def _weight(module: nn.Module) -> Any:
    """Its weight; reading one that is computed, as by spectral norm, changes nothing."""
    with torch.no_grad(), evaluating(module):
        return getattr(module, "weight", None)


def set_widths_(module: nn.Module, sizes: dict[str, int]) -> None:
    """Write constructor sizes, as :func:`widths` gives them, into a module's attributes."""
    for name, size in sizes.items():
        setattr(module, name, int(size))

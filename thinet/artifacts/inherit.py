"""Starting from what an earlier run left: a fresh network with the widths of a saved one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from thinet.artifacts.spec import read_spec
from thinet.artifacts.transforms import transformed
from thinet.base.errors import ThinetError
from thinet.surgery import ChannelGraph, Group, remove_, trace


def narrow_(network: nn.Module, folder: Path, shape: tuple[int, ...]) -> nn.Module:
    """Cut a network to the widths of a saved one and give it its transforms, whatever its weights.

    It need not have the saved network's head: other classes, or one linear layer behind an average
    pooling in place of a VGG's three, get as many inputs as there are channels left.

    Args:
        network: At full width; changed in place. On the ``meta`` device only shapes are cut.
        folder: Of the saved network.
        shape: ``(C, H, W)``.

    Returns:
        ``network``.

    Raises:
        ThinetError: If there is no saved network, or it is of another architecture.
    """
    spec = read_spec(folder)
    return transformed(cut_(network, spec.keep, shape, str(folder)), spec.transforms)


def cut_(
    network: nn.Module, keep: Mapping[str, Sequence[int]], shape: Sequence[int], source: str
) -> nn.Module:
    """Remove the filters that are not kept, in place.

    Args:
        network: At full width, on any device.
        keep: Kept filters of layers; those of other layers all stay.
        shape: ``(C, H, W)``.
        source: Named in errors.

    Returns:
        ``network``.

    Raises:
        ThinetError: If the filters are not those of this network.
    """
    if not keep:
        return network
    device = next(network.parameters()).device
    graph = trace(network, torch.zeros(1, *shape, device=device))
    return remove_(network, graph, kept_units(graph, keep, source))


def kept_units(
    graph: ChannelGraph, keep: Mapping[str, Sequence[int]], source: str
) -> dict[str, list[int]]:
    """The units of each group that stay, from the filters of each layer that stayed.

    Args:
        graph: Of the full network. Layers that it does not have are passed over.
        keep: Kept filters of layers, in original coordinates.
        source: Named in the error.

    Raises:
        ThinetError: If the filters are not those of this network.
    """
    found: dict[str, list[int]] = {}
    for group in graph.groups.values():
        if any(layer.name in keep for layer in group.layers):
            found[group.name] = _units(group, keep, source)
    return found


def _units(group: Group, keep: Mapping[str, Sequence[int]], source: str) -> list[int]:
    stay: set[int] = set()
    for layer in group.layers:
        filters = list(keep.get(layer.name, ()))
        if filters and max(filters) < layer.filters:
            stay |= set(layer.units[filters].tolist())
    units = sorted(stay)
    for layer in group.layers:
        if not units or layer.kept(units) != sorted(keep.get(layer.name, ())):
            raise ThinetError(
                f"{source} holds a network of another architecture ({layer.name} does not have "
                "the filters kept there): type model=<the one it was made from>."
            )
    return units


def in_original(
    earlier: Mapping[str, Sequence[int]], later: Mapping[str, Sequence[int]]
) -> dict[str, list[int]]:
    """Kept filters in coordinates of the full network, after two prunings.

    Args:
        earlier: Of the first pruning, in coordinates of the full network.
        later: Of the second, in coordinates of the network that the first left.
    """
    joined = {layer: list(filters) for layer, filters in earlier.items()}
    for layer, filters in later.items():
        known = joined.get(layer)
        joined[layer] = list(filters) if known is None else [known[k] for k in filters]
    return joined

"""A network that runs at any widths: the leading channels of each of its tensors, not a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from thinet.surgery.graph import ChannelGraph
from thinet.surgery.slim import set_widths_, shared_copy, widths

WHOLE = -1


@dataclass
class Axis:
    """Which entries of one axis of a tensor stay.

    Attributes:
        axis: Its number.
        groups: int64, for each entry the place of the group it belongs to, or -1.
        units: int64, for each entry the place of its unit in the order of that group.
        read: The places of all groups that are met.
    """

    axis: int
    groups: Tensor
    units: Tensor
    read: tuple[int, ...]
    _known: dict[tuple[int, ...], Tensor | int] = field(default_factory=dict, repr=False)

    def kept(self, counts: Sequence[int], device: torch.device) -> Tensor | int:
        """The entries that stay: how many, where they are the first ones, or their numbers."""
        key = tuple(counts[place] for place in self.read)
        if key not in self._known:
            limits = torch.tensor([*counts, 0])  # the last one is that of no group, at -1
            stays = (self.groups < 0) | (self.units < limits[self.groups])
            count = int(stays.sum())
            leading = bool(stays[:count].all())
            self._known[key] = count if leading else torch.nonzero(stays).flatten()
        found = self._known[key]
        return found.to(device) if isinstance(found, Tensor) else found


class Crops:
    """Takes the leading channels of every group out of a network's tensors.

    Args:
        graph: The network's channels.
        names: The groups whose widths change.
        orders: For each of them its units, int64 on the CPU, the first to stay first: these lead,
            and what stays lies as it lay. None for the order that they lie in.
    """

    def __init__(
        self, graph: ChannelGraph, names: Sequence[str], orders: Sequence[Tensor] | None = None
    ) -> None:
        self.names = tuple(names)
        labels = [graph.groups[name].labels for name in names]
        if orders is not None:
            labels = [own[order] for own, order in zip(labels, orders, strict=True)]
        place = {label: (number, unit) for number, own in enumerate(labels)
                 for unit, label in enumerate(own.tolist())}  # fmt: skip
        self.axes: dict[str, list[Axis]] = {}
        self.follows: set[str] = set()
        for use in graph.uses:
            met = [place.get(label, (WHOLE, 0)) for label in use.labels.tolist()]
            read = tuple(sorted({group for group, _ in met} - {WHOLE}))
            if read:
                groups, units = torch.tensor(met).unbind(dim=1)
                self.axes.setdefault(use.tensor, []).append(Axis(use.axis, groups, units, read))
            if use.role == "follow" and use.axis == 0:
                self.follows.add(use.tensor)

    def reads(self, tensor: str) -> tuple[int, ...]:
        """The places of the groups that a tensor's sizes depend on, those it reads first."""
        found = [group for axis in sorted(self.axes.get(tensor, ()), key=lambda one: -one.axis)
                 for group in axis.read]  # fmt: skip
        return tuple(dict.fromkeys(found))

    def __call__(self, name: str, tensor: Tensor, counts: Sequence[int]) -> Tensor:
        """What is left of a tensor; a view of it where leading entries are all that stay.

        Args:
            name: Its dotted name.
            tensor: At full width.
            counts: Units that each group keeps, in the order of ``names``.
        """
        for axis in self.axes.get(name, ()):
            kept = axis.kept(counts, tensor.device)
            if isinstance(kept, int):
                tensor = tensor.narrow(axis.axis, 0, kept)
            else:
                tensor = tensor.index_select(axis.axis, kept)
        return tensor


class Dressed:
    """A network whose tensors are put on from outside, at any widths.

    It shares no tensor with the network it was made of. What it wears are plain tensors, so that
    gradients flow to where they came from.

    Args:
        network: What it is like; its tensors are not touched.
        crops: Where its sizes come from.
    """

    def __init__(self, network: nn.Module, crops: Crops) -> None:
        self.network = shared_copy(network, "meta")
        self._places: dict[str, list[tuple[nn.Module, str, bool]]] = {}
        self._sized: list[tuple[nn.Module, bool]] = []
        twins: dict[int, str] = {}
        for path, module in self.network.named_modules():
            touched = deep = False
            for tensors, stored in ((module._parameters, True), (module._buffers, False)):
                for leaf, tensor in tensors.items():
                    if tensor is None:
                        continue
                    own = f"{path}.{leaf}" if path else leaf
                    name = twins.setdefault(id(tensor), own)
                    self._places.setdefault(name, []).append((module, leaf, stored))
                    touched |= name in crops.axes
                    deep |= leaf == "weight" and name in crops.follows
            if touched:
                self._sized.append((module, deep))

    def wear(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """Put all tensors on, and write the sizes that follow from them into the modules.

        Args:
            tensors: Every parameter and buffer by its dotted name.
        """
        for name, places in self._places.items():
            for module, leaf, stored in places:
                (module._parameters if stored else module._buffers)[leaf] = tensors[name]  # type: ignore[assignment]
        for module, deep in self._sized:
            set_widths_(module, widths(module, deep))
        return self.network

"""What a network's outputs should gain to be those of another: the target of a refit.

Errors of layers that were cut earlier are made good by those cut later if these aim at the outputs
of the original network (He et al. 2017). At the end of a residual block the sum is what counts, so
the last layer of the block makes good for its shortcut too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from thinet.pruning.statistics.statistic import widened
from thinet.surgery import ChannelGraph, Group, Layer, evaluating
from thinet.surgery.calls import WeightCall
from thinet.surgery.joins import Join
from thinet.surgery.observe import observe

Key = tuple[str, int]
MEMORY = 2**30
"""Bytes of a reference's outputs that are kept for later groups."""


@dataclass(frozen=True)
class _Round:
    """What one pass over the reference is to find, for several groups at once."""

    calls: dict[str, int] = field(default_factory=dict)
    joins: dict[str, int] = field(default_factory=dict)

    def add(self, group: Group) -> None:
        for consumer in group.consumers:
            self.calls[consumer.weight] = consumer.calls
            self.joins[consumer.weight] = consumer.joins


@dataclass(frozen=True)
class Reference:
    """A network to aim at.

    Attributes:
        network: The original network, on the device of the one that is pruned.
        filters: Of each layer that has been pruned by now, by the name of its weight, the filters
            that stay, numbered as in ``network``.
    """

    network: nn.Module
    filters: dict[str, Tensor] = field(default_factory=dict)
    _rounds: list[_Round] = field(default_factory=list)
    _kept: dict[tuple[int, ...], Outputs] = field(default_factory=dict)

    def expect(self, groups: Sequence[Group], graph: ChannelGraph, images: int) -> None:
        """Say what will be asked for, so that one pass serves as many groups as fit into memory.

        Args:
            groups: In the order of their turns.
            graph: The trace of this network.
            images: Calibration images, always in the same batches.
        """
        self._rounds.clear()
        self._kept.clear()
        room = 0
        for group in groups:
            size = sum(
                4 * images * one.outputs * graph.facts.work.get(one.weight, 1)
                for one in group.consumers
            )
            if size > room:
                self._rounds.append(_Round())
                room = MEMORY
            room -= size
            self._rounds[-1].add(group)

    def outputs(
        self,
        images: Tensor,
        numbers: Sequence[int],
        calls: Mapping[str, int],
        joins: Mapping[str, int],
    ) -> Outputs:
        """What :func:`watch` finds in this network for a batch, from memory if it is there.

        Args:
            images: A batch.
            numbers: The number of each image.
            calls: See :func:`watch`; so is ``joins``.
            joins: See above.
        """
        batch = tuple(numbers)
        kept = self._kept.get(batch)
        if kept is not None and joins.keys() <= {key[0] for key in (*kept.raw, *kept.joined)}:
            return kept
        ahead = next((one for one in self._rounds if joins.keys() <= one.joins.keys()), None)
        with evaluating(self.network):
            if ahead is None:
                return watch(self.network, images, calls, joins)
            found = watch(self.network, images, ahead.calls, ahead.joins)
        # Of an output that joins a sum, only the sum is looked at.
        raw = {key: output for key, output in found.raw.items() if key not in found.joined}
        self._kept[batch] = Outputs(raw, found.joined, {})
        return self._kept[batch]

    def note(self, layer: Layer, kept: Sequence[int]) -> None:
        """Take note of a cut: which filters of ``layer``, as it was just before, stay."""
        stays = torch.tensor(list(kept), dtype=torch.int64)
        before = self.filters.get(layer.weight)
        self.filters[layer.weight] = stays if before is None else before[stays]


@dataclass(frozen=True)
class Outputs:
    """What some layers put out for one batch.

    Attributes:
        raw: By weight and turn, the output itself.
        joined: The sum that the output, after its BatchNorm, is a part of.
        scales: What that BatchNorm multiplies each channel with.
        parts: How many of the watched outputs meet in that sum: each makes good its share.
    """

    raw: dict[Key, Tensor]
    joined: dict[Key, Tensor]
    scales: dict[Key, Tensor | None]
    parts: dict[Key, int] = field(default_factory=dict)


def watch(
    network: nn.Module,
    images: Tensor,
    calls: Mapping[str, int],
    joins: Mapping[str, int],
    on_call: Callable[[WeightCall, Tensor, int], None] | None = None,
) -> Outputs:
    """Run a network as far as needed and keep the outputs of the layers that end in joins or not.

    Args:
        network: Run as it is.
        images: A batch.
        calls: Uses of each watched weight in one pass.
        joins: How often the output of each of those whose outputs are wanted meets an addition.
        on_call: Called with every watched call besides.
    """
    found = Outputs({}, {}, {})

    def take(call: WeightCall, output: Tensor, turn: int) -> None:
        if on_call is not None:
            on_call(call, output, turn)
        if call.weight in joins:
            found.raw[call.weight, turn] = output.clone()  # it may be overwritten in place

    sums: list[tuple[Tensor, list[Key]]] = []

    def join(seen: Join) -> None:
        key = (seen.weight, seen.turn)
        found.joined[key] = seen.result.clone()
        found.scales[key] = seen.scale
        if not sums or sums[-1][0] is not seen.result:
            sums.append((seen.result, []))
        sums[-1][1].append(key)

    observe(network, images, calls, take, joins, join)
    found.parts.update({key: len(keys) for _, keys in sums for key in keys})
    return found


def gains(seen: Outputs, wanted: Outputs, filters: Mapping[str, Tensor]) -> dict[Key, Tensor]:
    """What each output should gain so that it, or the sum it joins, is that of the reference.

    Args:
        seen: Outputs of the current network.
        wanted: Outputs of the reference.
        filters: See :class:`Reference`.

    Returns:
        By weight and turn, in the shape of the output, float32 at least.
    """
    found = {}
    for key, raw in seen.raw.items():
        stays = filters.get(key[0])
        axis = 1 if raw.dim() > 2 else raw.dim() - 1
        if key in seen.joined and key in wanted.joined:
            aim = widened(_select(wanted.joined[key], stays, axis))
            missing = aim - widened(seen.joined[key])
            found[key] = _unscaled(missing, seen.scales[key]) / seen.parts.get(key, 1)
        else:
            found[key] = widened(_select(wanted.raw[key], stays, axis)) - widened(raw)
    return found


def _select(output: Tensor, stays: Tensor | None, axis: int) -> Tensor:
    return output if stays is None else output.index_select(axis, stays.to(output.device))


def _unscaled(missing: Tensor, scale: Tensor | None) -> Tensor:
    """What a BatchNorm has to be given so that ``missing`` comes out; nothing where it is shut."""
    if scale is None:
        return missing
    scale = widened(scale)
    shut = scale.abs() <= 1e-3 * scale.abs().max()
    inverse = torch.where(shut, 0.0, 1 / torch.where(shut, 1.0, scale))
    return missing * inverse.view(1, -1, *[1] * (missing.dim() - 2))

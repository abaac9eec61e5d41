"""One network at any widths, each cut in one shot from what was seen of the full network once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from thinet.pruning.criteria import Criterion
from thinet.pruning.group import Calibration, Ranked, rank_groups
from thinet.pruning.loss_curves import in_parts
from thinet.pruning.reconstruction import Correction, Reconstruction
from thinet.pruning.statistics import Evidence, PatchMoments
from thinet.surgery import ChannelGraph, Consumer, Crops, Dressed

MEMORY = 2**30
"""Bytes of corrected weights that are kept; what does not fit is worked out again."""


@dataclass(frozen=True)
class _Cut:
    """What a layer loses of its inputs.

    Attributes:
        consumer: The layer; its inputs are numbered as ``orders`` number them.
        places: The groups that it reads here, by their place among all.
        orders: For each of them its units, the first to keep first.
        evidence: What its correction looks at.
    """

    consumer: Consumer
    places: tuple[int, ...]
    orders: tuple[Tensor, ...]
    evidence: Evidence

    def kept(self, counts: Sequence[int]) -> Tensor:
        """The units that stay: int64, sorted."""
        pairs = zip(self.places, self.orders, strict=True)
        return torch.cat([order[: counts[place]] for place, order in pairs]).sort().values

    def cuts(self, counts: Sequence[int]) -> bool:
        """Whether any goes."""
        pairs = zip(self.places, self.orders, strict=True)
        return any(counts[place] < len(order) for place, order in pairs)


class OneShot:
    """The networks that one-shot pruning of one network leaves, at any widths.

    The units of every group are ranked once, as if it alone were cut, and statistics for the
    reconstruction are collected once, all on the full network: no images are looked at for another
    network. :func:`thinet.prune` collects them anew after each cut: the same network where one
    group is cut, another one where many are.

    Corrected weights are remembered (up to :data:`MEMORY`): a layer that reads one group has as
    many of them as that group has widths.

    Args:
        network: The full network; neither changed nor copied, and not to be changed.
        graph: Its trace.
        names: The groups that may be cut.
        criterion: Ranks their units.
        reconstruction: Corrects what reads them.
        calibration: The images that both look at.

    Raises:
        ThinetError: If activations are not finite.
    """

    def __init__(
        self,
        network: nn.Module,
        graph: ChannelGraph,
        names: Sequence[str],
        criterion: Criterion,
        reconstruction: Reconstruction,
        calibration: Calibration,
    ) -> None:
        ranked = _ranked(network, graph, names, criterion, reconstruction, calibration)
        self._reconstruction = reconstruction
        self._cuts = _cuts(graph, ranked, PatchMoments in reconstruction.needs)
        self._crops = Crops(graph, names, [one.order for one in ranked.values()])
        self._dressed = Dressed(network, self._crops)
        self._parameters = dict(network.named_parameters(remove_duplicate=False))
        self._buffers = dict(network.named_buffers(remove_duplicate=False))
        self._known: OrderedDict[tuple[str, tuple[int, ...]], Correction] = OrderedDict()
        self._size = 0

    @torch.no_grad()
    def at(self, counts: Sequence[int]) -> nn.Module:
        """The network at some widths, in ``eval()`` mode; the next call changes it.

        Its statistics of BatchNorm are those of the full network, but for the means of what
        corrected layers put out.

        Args:
            counts: Units that each group keeps, in the order of the names.
        """
        parameters = {name: tensor.detach() for name, tensor in self._parameters.items()}
        buffers = {name: tensor.clone() for name, tensor in self._buffers.items()}
        for weight in self._cuts:
            correction = self._corrected(weight, counts)
            if correction is None:
                continue
            parameters[weight] = correction.weight
            shifted = self._cuts[weight][0].consumer.shift
            if correction.shift is not None and shifted is not None:
                if shifted in buffers:  # what is added before a BatchNorm moves its mean
                    buffers[shifted] = buffers[shifted] - correction.shift.to(buffers[shifted])
                else:
                    bias = parameters[shifted]
                    parameters[shifted] = bias + correction.shift.to(bias)
        tensors = {
            name: self._crops(name, tensor, counts).contiguous()
            for name, tensor in (parameters | buffers).items()
        }
        return self._dressed.wear(tensors).eval()

    def _corrected(self, weight: str, counts: Sequence[int]) -> Correction | None:
        """A weight and what its outputs are to gain; None where it loses no inputs."""
        cuts = self._cuts[weight]
        if not any(cut.cuts(counts) for cut in cuts):
            return None
        key = weight, tuple(counts[place] for cut in cuts for place in cut.places)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        found = Correction(self._parameters[weight].detach())
        for cut in cuts:
            if cut.cuts(counts):
                made = self._reconstruction.correct(
                    found.weight, cut.consumer, cut.kept(counts), cut.evidence
                )
                both = [one.shift for one in (found, made) if one.shift is not None]
                found = Correction(made.weight, sum(both[1:], both[0]) if both else None)
        self._known[key] = found
        self._size += found.weight.nbytes
        while self._size > MEMORY:
            self._size -= self._known.popitem(last=False)[1].weight.nbytes
        return found


def _ranked(
    network: nn.Module,
    graph: ChannelGraph,
    names: Sequence[str],
    criterion: Criterion,
    reconstruction: Reconstruction,
    calibration: Calibration,
) -> dict[str, Ranked]:
    """The groups' orders, and of what was collected that which the reconstruction looks at."""
    groups, found = [graph.groups[name] for name in names], {}
    needs = {*criterion.needs, *reconstruction.needs}
    for part in in_parts(groups, heavy=PatchMoments in needs or calibration.sampling.exact):
        ranked = rank_groups(network, part, criterion, reconstruction.needs, calibration)
        for name, one in ranked.items():
            kinds = reconstruction.needs
            found[name] = Ranked(one.order, Evidence({kind: one.evidence[kind] for kind in kinds}))
    return found


def _cuts(graph: ChannelGraph, ranked: Mapping[str, Ranked], whole: bool) -> dict[str, list[_Cut]]:
    """For each weight that reads groups what it may lose.

    Args:
        graph: Of the full network.
        ranked: The groups.
        whole: Whether a correction looks at all inputs of a layer, so that what it loses of
            several groups is one cut; else there is one for each group.
    """
    found: dict[str, list[_Cut]] = {}
    for place, (name, one) in enumerate(ranked.items()):
        for consumer in graph.groups[name].consumers:
            cut = _Cut(consumer, (place,), (one.order,), one.evidence)
            found.setdefault(consumer.weight, []).append(cut)
    if whole:
        found = {weight: [_together(cuts)] for weight, cuts in found.items()}
    return found


def _together(cuts: Sequence[_Cut]) -> _Cut:
    """The cuts of one layer as one, its units numbered through."""
    channels, orders, first = cuts[0].consumer.channels.clone().fill_(-1), [], 0
    for cut in cuts:
        own = cut.consumer.channels
        channels = torch.where(own < 0, channels, own + first)
        orders += [order + first for order in cut.orders]
        first += sum(len(order) for order in cut.orders)
    return replace(
        cuts[0],
        consumer=replace(cuts[0].consumer, channels=channels),
        places=tuple(place for cut in cuts for place in cut.places),
        orders=tuple(orders),
    )

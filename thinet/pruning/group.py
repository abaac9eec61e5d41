"""Pruning one group after the other: what ``thinet.prune`` and the experiment runs share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thinet.base.collective import agree
from thinet.base.errors import ThinetError
from thinet.base.seeding import derive_seed
from thinet.datasets.calibration import CalibrationImages
from thinet.pruning.criteria import Candidates, Criterion
from thinet.pruning.reconstruction import Reconstruction, Scale, relative_error, scale_factors
from thinet.pruning.statistics import (
    ContributionMoments,
    Evidence,
    GateGradients,
    Reference,
    Sampling,
    Statistic,
    collect,
    shard,
)
from thinet.surgery import ChannelGraph, Group, recalibrate_, remove_, shrink
from thinet.surgery.observe import as_far_as

Watch = Callable[[nn.Module, Group], Callable[[nn.Module, Sequence[int]], None]]

RECALIBRATION_BATCH = 64
"""Most images in a batch that BatchNorm statistics are re-estimated on."""


@dataclass(frozen=True)
class LayerRecord:
    """What happened to one layer.

    Attributes:
        layer: Module path.
        filters_before: Filters when this cut began.
        kept: The filters that stayed, numbered as they were before this cut.
        rows: Rows of the statistics behind the choice, None if it looked at no data.
        error: Relative squared error of the next layers' output on those rows, by the kept
            filters alone; None without contributions.
        error_corrected: The same with the paper's factors; None unless those were applied.
    """

    layer: str
    filters_before: int
    kept: list[int]
    rows: int | None
    error: float | None
    error_corrected: float | None


@dataclass(frozen=True)
class Calibration:
    """The images that the choice is made on, and how they are shared between processes.

    Attributes:
        images: Each ``(C, H, W)``, without augmentation.
        sampling: How much of them to look at.
        batch: Images a forward pass.
        rank: This process.
        world: How many processes there are.
        labels: The class of each image, ``(images,)``, for criteria that need the loss.
        reference: The original network, for reconstructions that aim at it; it takes note of
            every cut.
    """

    images: Sequence[Tensor]
    sampling: Sampling = field(default_factory=Sampling)
    batch: int = 64
    rank: int = 0
    world: int = 1
    labels: Tensor | None = None
    reference: Reference | None = None

    @classmethod
    def of(
        cls, found: CalibrationImages, sampling: Sampling, batch: int, rank: int, world: int
    ) -> Calibration:
        """The images of a data set, as one of ``world`` processes looks at them."""
        return cls(found.images, sampling, batch, rank, world, found.labels)

    def batches(self) -> Iterable[Tensor]:
        """All images in batches of one size, the same on every process.

        Their size does not depend on ``batch``: a BatchNorm that is re-estimated on them must not
        either, and one image a batch has no variance.
        """
        parts = math.ceil(len(self.images) / RECALIBRATION_BATCH)
        size = math.ceil(len(self.images) / parts)
        return (batch for batch, _ in shard(self.images, 0, 1, size))

    def collect(
        self, network: nn.Module, groups: Sequence[Group], needs: Iterable[type[Statistic[Any]]]
    ) -> dict[str, Evidence]:
        """One pass over the images; see :func:`thinet.pruning.statistics.collect`."""
        mine = shard(self.images, self.rank, self.world, self.batch)
        count = len(self.images)
        return collect(
            network, groups, needs, mine, self.sampling, count, self.labels, self.reference,
            shared=self.world > 1,
        )  # fmt: skip


@dataclass(frozen=True)
class Ranked:
    """A group whose units have been ranked.

    Attributes:
        order: Its units, the first to keep first: int64 ``(units,)`` on the CPU, the same on every
            process.
        evidence: The statistics that were collected of it.
    """

    order: Tensor
    evidence: Evidence

    def kept(self, count: int) -> Tensor:
        """The ``count`` units that stay: int64, sorted."""
        return self.order[:count].sort().values


def rank_groups(
    network: nn.Module,
    groups: Sequence[Group],
    criterion: Criterion,
    needs: Iterable[type[Statistic[Any]]],
    calibration: Calibration,
) -> dict[str, Ranked]:
    """Collect statistics of some groups in one pass over the images, and rank the units of each.

    Args:
        network: The network.
        groups: Each judged as if it alone were cut.
        criterion: Ranks the units.
        needs: Statistics to collect beside those of the criterion.
        calibration: The images.

    Returns:
        What was found of each group, by its name.

    Raises:
        ThinetError: If activations are not finite.
    """
    evidence = calibration.collect(network, groups, {*criterion.needs, *needs})
    found = {}
    for group in groups:
        seed = derive_seed(calibration.sampling.seed, "select", group.name)
        order = criterion.rank(Candidates.of(network, group), evidence[group.name], seed)
        found[group.name] = Ranked(agree(order, calibration.world), evidence[group.name])
    return found


def cut_group_(
    network: nn.Module,
    graph: ChannelGraph,
    name: str,
    count: int,
    ranked: Ranked,
    reconstruction: Reconstruction,
    reference: Reference | None = None,
) -> tuple[list[LayerRecord], ChannelGraph]:
    """Correct the layers that read a ranked group, and cut it, in place.

    Args:
        network: The network, changed in place.
        graph: Its trace.
        name: Of the group.
        count: How many units stay.
        ranked: What :func:`rank_groups` found of it.
        reconstruction: Corrects the consumers' weights.
        reference: The original network, which takes note of the cut.

    Returns:
        A record for each layer of the group, and the graph of the network as it is now.

    Raises:
        ThinetError: If corrected weights are not finite.
    """
    group, keep = graph.groups[name], ranked.kept(count)
    _correct_(network, group, keep, reconstruction, ranked.evidence)
    records = _records(group, keep, reconstruction, ranked.evidence)
    units = [int(unit) for unit in keep]
    remove_(network, graph, {name: units})
    if reference is not None:
        for layer in group.layers:
            reference.note(layer, layer.kept(units))
    return records, shrink(graph, {name: units})


def prune_groups_(
    network: nn.Module,
    graph: ChannelGraph,
    counts: Mapping[str, int],
    criterion: Criterion,
    reconstruction: Reconstruction,
    calibration: Calibration,
    recalibrate: bool = False,
    watch: Watch | None = None,
) -> tuple[list[LayerRecord], ChannelGraph]:
    """Rank, correct and cut one group after the other, in place.

    Args:
        network: The network, changed in place.
        graph: Its trace.
        counts: How many units stay, by group, in order.
        criterion: Ranks the units.
        reconstruction: Corrects the consumers' weights.
        calibration: The images.
        recalibrate: Re-estimate BatchNorm statistics after each cut, so that the next group is
            judged on a network whose activations have kept their scale: those that the next group
            sees, and all after the last one.
        watch: Called before each cut; what it returns is called after it, with the kept filters of
            the group's first layer.

    Returns:
        A record for each layer, and the graph of the network as it is now.

    Raises:
        ThinetError: If activations or corrected weights are not finite.
    """
    records: list[LayerRecord] = []
    names = list(counts)
    for name, following in zip(names, [*names[1:], None], strict=True):
        group = graph.groups[name]
        after = None if watch is None else watch(network, group)
        ranked = rank_groups(network, [group], criterion, reconstruction.needs, calibration)[name]
        found, graph = cut_group_(
            network, graph, name, counts[name], ranked, reconstruction, calibration.reference
        )
        if recalibrate:
            short = following is not None and GateGradients not in criterion.needs
            forward = as_far_as(network, graph.groups[following]) if short and following else None
            recalibrate_(network, calibration.batches(), forward)
        if after is not None:
            after(network, found[0].kept)
        records += found
    return records, graph


@torch.no_grad()
def _correct_(
    network: nn.Module,
    group: Group,
    keep: Tensor,
    reconstruction: Reconstruction,
    evidence: Evidence,
) -> None:
    buffers = dict(network.named_buffers())
    for consumer in group.consumers:
        weight = network.get_parameter(consumer.weight)
        correction = reconstruction.correct(weight, consumer, keep, evidence)
        changed = [weight.copy_(correction.weight)]
        if correction.shift is not None and consumer.shift is not None:
            if consumer.shift in buffers:  # what is added before a BatchNorm moves its mean
                mean = buffers[consumer.shift]
                changed.append(mean.sub_(correction.shift.to(mean)))
            else:
                bias = network.get_parameter(consumer.shift)
                changed.append(bias.add_(correction.shift.to(bias)))
        if not all(bool(torch.isfinite(tensor).all()) for tensor in changed):
            raise ThinetError(
                f"the corrected weights of {consumer.name} are beyond what {weight.dtype} holds: "
                "prune the network in float32 and convert it afterwards, or choose "
                "reconstruction=none."
            )


def _records(
    group: Group, keep: Tensor, reconstruction: Reconstruction, evidence: Evidence
) -> list[LayerRecord]:
    error = corrected = None
    if ContributionMoments in evidence:
        gram = evidence[ContributionMoments].gram
        error = relative_error(gram, keep)
        if isinstance(reconstruction, Scale):
            corrected = relative_error(gram, keep, scale_factors(gram, keep, reconstruction.ridge))
    rows, units = evidence.rows(), keep.tolist()
    return [
        LayerRecord(layer.name, layer.filters, layer.kept(units), rows, error, corrected)
        for layer in group.layers
    ]

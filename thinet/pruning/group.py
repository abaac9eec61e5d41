"""Pruning one group after the other: what ``thinet.prune`` and the experiment runs share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thinet.base.collective import agree
from thinet.base.errors import ThinetError
from thinet.base.seeding import derive_seed
from thinet.datasets.calibration import CalibrationImages
from thinet.pruning.criteria import Candidates, Criterion
from thinet.pruning.reconstruction import (
    Reconstruction,
    Scale,
    recalibrate_,
    relative_error,
    scale_factors,
)
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
from thinet.surgery import ChannelGraph, Group, remove_, shrink
from thinet.surgery.observe import observe

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


def prune_group_(
    network: nn.Module,
    graph: ChannelGraph,
    name: str,
    count: int,
    criterion: Criterion,
    reconstruction: Reconstruction,
    calibration: Calibration,
    recalibrate: bool = False,
    following: str | None = None,
) -> tuple[list[LayerRecord], ChannelGraph]:
    """Choose the units of one group, correct the layers that read it, and cut, in place.

    Args:
        network: The network, changed in place.
        graph: Its trace.
        name: Of the group.
        count: How many units stay.
        criterion: Chooses them.
        reconstruction: Corrects the consumers' weights.
        calibration: The images.
        recalibrate: Re-estimate BatchNorm statistics right after the cut, so that the next group is
            judged on a network whose activations have kept their scale.
        following: The group that is cut next by the same criterion, if any: BatchNorms that it does
            not see are not re-estimated before its turn.

    Returns:
        A record for each layer of the group, and the graph of the network as it is now.

    Raises:
        ThinetError: If activations or corrected weights are not finite.
    """
    group = graph.groups[name]
    needs = {*criterion.needs, *reconstruction.needs}
    evidence = calibration.collect(network, [group], needs)[name]
    seed = derive_seed(calibration.sampling.seed, "select", name)
    candidates = Candidates.of(network, group)
    keep = agree(criterion.select(candidates, evidence, count, seed), calibration.world)
    _correct_(network, group, keep, reconstruction, evidence)
    records = _records(group, keep, reconstruction, evidence)
    units = [int(unit) for unit in keep]
    remove_(network, graph, {name: units})
    if calibration.reference is not None:
        for layer in group.layers:
            calibration.reference.note(layer, layer.kept(units))
    graph = shrink(graph, {name: units})
    if recalibrate:
        short = following is not None and GateGradients not in criterion.needs
        forward = _as_far_as(network, graph.groups[following]) if short and following else None
        recalibrate_(network, calibration.batches(), forward)
    return records, graph


def _as_far_as(network: nn.Module, group: Group) -> Callable[[Tensor], object]:
    """A forward pass that ends where the statistics of ``group`` have all been seen."""
    calls = {consumer.weight: consumer.calls for consumer in group.consumers}
    joins = {consumer.weight: consumer.joins for consumer in group.consumers}
    return lambda images: observe(network, images, calls, joins=joins)


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

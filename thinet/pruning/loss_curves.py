"""The loss that a group's removal path predicts at every width, for ``allocation=error``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thinet.pruning.criteria import Candidates, Criterion
from thinet.pruning.group import Calibration, Ranked, rank_groups
from thinet.pruning.reconstruction import Reconstruction
from thinet.pruning.statistics import PatchMoments
from thinet.surgery import ChannelGraph, Group, evaluating
from thinet.surgery.joins import Join
from thinet.surgery.observe import observe

POINTS = 16
"""Widths at which a loss is worked out; those between are interpolated."""
MEMORY = 2**30
"""Bytes of patch moments that one pass over the images may collect."""


def loss_curves(
    network: nn.Module,
    graph: ChannelGraph,
    names: Sequence[str],
    criterion: Criterion,
    reconstruction: Reconstruction,
    calibration: Calibration,
) -> dict[str, NDArray[np.float64]]:
    """The loss of every group at every width, if it alone were cut.

    Args:
        network: The full network.
        graph: Its trace.
        names: The groups that may be cut.
        criterion: Ranks the units.
        reconstruction: Corrects the consumers, and says what they lose all the same.
        calibration: The images; one pass over them serves as many groups as fit into memory.

    Returns:
        For each group ``(units + 1,)``: entry n is the loss with n units kept, the relative squared
        error of the consumers' outputs times the share that these outputs have in the activation
        that they are added to.
    """
    # The full network has nothing to gain, and aiming would hold the patches of all groups at once.
    calibration = replace(calibration, reference=None)
    groups = [graph.groups[name] for name in names]
    share = shares(network, groups, calibration)
    losses = {}
    needs = {*criterion.needs, *reconstruction.loss_needs}
    for part in in_parts(groups, heavy=PatchMoments in needs or calibration.sampling.exact):
        found = rank_groups(network, part, criterion, reconstruction.loss_needs, calibration)
        for group in part:
            ranked = found[group.name]
            curve = _curve(Candidates.of(network, group), ranked, reconstruction)
            parts = [share.get(consumer.weight, 1.0) for consumer in group.consumers]
            losses[group.name] = curve * (sum(parts) / len(parts))
    return losses


@torch.no_grad()
def shares(
    network: nn.Module, groups: Sequence[Group], calibration: Calibration
) -> dict[str, float]:
    """Which part of the variance of the sum that a consumer's output joins is its own.

    At the end of a residual block an error of the block matters as much as the block matters in
    its sum with the shortcut, so early blocks of a stage count for more than late ones.

    Returns:
        By name of the consumer's weight, for those whose output is added to something.
    """
    joins = {
        consumer.weight: consumer.joins
        for group in groups
        for consumer in group.consumers
        if consumer.joins
    }
    own: dict[str, _Variance] = defaultdict(_Variance)
    whole: dict[str, _Variance] = defaultdict(_Variance)

    def note(join: Join) -> None:
        own[join.weight].add(join.own)
        whole[join.weight].add(join.result)

    if joins:
        device = next(network.parameters()).device
        with evaluating(network):
            for batch in calibration.batches():
                observe(network, batch.to(device), {}, joins=joins, on_join=note)
    return {
        weight: min(1.0, own[weight].total() / max(whole[weight].total(), 1e-300)) for weight in own
    }


class _Variance:
    """The variance of a streamed activation about each channel's mean, summed over channels."""

    def __init__(self) -> None:
        self.count = 0
        self.first: Tensor | float = 0.0
        self.second = 0.0

    def add(self, activation: Tensor) -> None:
        values = activation.double().movedim(1 if activation.dim() > 2 else -1, 0).flatten(1)
        self.count += values.shape[1]
        self.first = self.first + values.sum(dim=1)
        self.second += float(values.square().sum())

    def total(self) -> float:
        mean = torch.as_tensor(self.first) / max(self.count, 1)
        return max(0.0, self.second / max(self.count, 1) - float(mean.square().sum()))


def in_parts(groups: Sequence[Group], heavy: bool) -> Iterator[list[Group]]:
    """Groups whose patch moments fit into memory together."""
    part: list[Group] = []
    taken = 0
    for group in groups:
        size = sum(8 * one.groups * one.unknowns**2 for one in group.consumers) if heavy else 0
        if part and taken + size > MEMORY:
            yield part
            part, taken = [], 0
        part.append(group)
        taken += size
    if part:
        yield part


def _curve(
    candidates: Candidates, ranked: Ranked, reconstruction: Reconstruction
) -> NDArray[np.float64]:
    units = candidates.units
    counts = sorted({max(1, round(units * k / POINTS)) for k in range(1, POINTS)} | {1})
    losses = [
        reconstruction.loss(candidates.readers, ranked.kept(count), ranked.evidence)
        for count in counts
    ]
    # Keeping more cannot lose more by an optimal choice; the greedy path may stumble.
    falling = np.minimum.accumulate(np.maximum(losses, 0.0))
    heights = [max(1.0, falling[0]), *falling, 0.0]
    curve: NDArray[np.float64] = np.interp(np.arange(units + 1), [0, *counts, units], heights)
    return curve

"""The contributions' second moments without sampling noise, from patch moments."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from thinet.pruning.statistics.contributions import Contributions
from thinet.pruning.statistics.patches import Moments
from thinet.pruning.statistics.statistic import second_moments
from thinet.surgery import Group


def from_patches(
    moments: Mapping[str, Moments], weights: Mapping[str, Tensor], group: Group
) -> Contributions:
    """G over all filters of all consumers and all positions that the moments hold.

    Equal in expectation to the sampled G: every consumer counts as one sampled output for each of
    its positions, scaled so that all consumers count for equally many rows.

    Args:
        moments: Of each consumer's input patches, by the name of its weight.
        weights: The weights themselves, by name.
        group: Whose units are judged.
    """
    rows = max(one.count for one in moments.values())
    total: Tensor | None = None
    for consumer in group.consumers:
        found, weight = moments[consumer.weight], weights[consumer.weight].detach()
        channels = consumer.channels
        if found.rows is None:
            gram = exact_contributions(weight, found.second, channels, group.units, consumer.groups)
        else:
            gram = row_contributions(weight, found.rows, channels, group.units)
        gram = gram * (rows / (found.count * weight.shape[0]))
        total = gram if total is None else total + gram
    assert total is not None  # a group without consumers is never judged
    return Contributions(total, rows)


def exact_contributions(
    weight: Tensor, moments: Tensor, channels: Tensor, units: int, groups: int = 1
) -> Tensor:
    """G summed over all filters of a consumer, from the second moments of its input patches.

    G_cc' = sum over taps k, k' of (A * W^T W)[(c, k), (c', k')] (the product being element by
    element), which is D / rows times what sampling estimates, without its noise.

    Args:
        weight: W, ``(D, C / groups, K, K)`` or ``(D, F)``.
        moments: A = U^T U of each group, ``(groups, P, P)`` with P = C / groups * K * K.
        channels: Unit of each input, ``(C,)`` or ``(F,)``, -1 for others.
        units: How many units there are.
        groups: Of the convolution.

    Returns:
        ``(units, units)`` in the type of ``moments``.
    """
    flat = weight.to(moments).reshape(groups, weight.shape[0] // groups, -1)
    product = (moments * (flat.transpose(1, 2) @ flat)).sum(dim=0)
    taps = weight[0, 0].numel()
    place = channels[: weight.shape[1]].to(moments.device).repeat_interleave(taps)
    own = place >= 0
    folded = moments.new_zeros(units, units)
    half = moments.new_zeros(units, int(own.sum()))
    half.index_add_(0, place[own], product[own][:, own])
    return folded.index_add_(1, place[own], half)


def row_contributions(
    weight: Tensor, rows: Tensor, channels: Tensor, units: int, block: int = 32
) -> Tensor:
    """The same from the input patches themselves, where their moments would be too large.

    Args:
        weight: W, ``(D, C, K, K)`` or ``(D, F)``.
        rows: U, ``(m, P)``, in the order of ``weight.flatten(1)``.
        channels: Unit of each input, ``(C,)`` or ``(F,)``, -1 for others.
        units: How many units there are.
        block: Outputs taken at a time, which bounds the memory to ``block * m * P`` numbers.

    Returns:
        float64 ``(units, units)``.
    """
    place = channels.to(rows.device).repeat_interleave(weight[0, 0].numel())
    own = torch.nonzero(place >= 0).flatten()
    own = own[torch.argsort(place[own], stable=True)]  # the inputs of a unit, side by side
    lengths = torch.bincount(place[own], minlength=units)
    gram = torch.zeros(units, units, dtype=torch.float64, device=rows.device)
    inputs = rows[:, own]
    for outputs in torch.split(weight.flatten(1)[:, own].to(inputs), block):
        products = (inputs[None] * outputs[:, None, :]).flatten(0, 1)
        folded = torch.segment_reduce(
            products, "sum", lengths=lengths.expand(len(products), -1).contiguous(), axis=1
        )
        gram += second_moments(folded.double()).to(gram)
    return gram

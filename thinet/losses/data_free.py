"""What makes images useful to learn from, judged by the network that they are drawn for.

Every term is minimised by whoever draws the images. Weights mean nothing without the reductions
and the base of the logarithm: the paper's formulas and its authors' code differ in both, so both
are arguments, and the defaults are those of the code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from thinet.losses.precision import in_full
from thinet.surgery import without_autocast

MEAN, SUM = "mean", "sum"
"""How the values of one vector become one number."""


@without_autocast
def one_hot(logits: Tensor) -> Tensor:
    """Cross-entropy of a network's answer and the class that it gives itself: how sure it is.

    Source: Chen et al. 2019 (DAFL), L_oh.

    Args:
        logits: ``(N, K)`` of the fixed network.

    Returns:
        A scalar in nats, 0 where every image is one class for certain, ``ln K`` where none is.
    """
    return F.cross_entropy(in_full(logits), logits.argmax(1))


@without_autocast
def activation(features: Tensor, reduction: str = MEAN) -> Tensor:
    """How strongly images excite a network: minus the size of its features.

    Source: Chen et al. 2019 (DAFL), L_a: ``-(1/n) sum_i |f_i|_1``.

    Args:
        features: ``(N, d)``, what the classifier reads.
        reduction: Over ``d``: ``mean`` as the authors' code, or ``sum`` as the paper's formula. A
            weight ``w`` of the one is ``w / d`` of the other.

    Returns:
        A scalar of at most 0.

    Raises:
        ValueError: If the reduction is unknown.
    """
    size = in_full(features).abs()
    return -_reduced(size, 1, reduction).mean()


@without_autocast
def information_entropy(mean: Tensor, base: float = 10.0, reduction: str = SUM) -> Tensor:
    """Minus the entropy of the classes in a batch: least where all are equally frequent.

    Source: Chen et al. 2019 (DAFL), L_ie.

    Args:
        mean: ``(K,)``, the mean over the whole batch, of all processes, of the softmax of a
            network's logits.
        base: Of the logarithm: 10 as the authors' code, ``math.e`` as the paper's formula.
        reduction: Over classes: ``sum`` as the code, or ``mean`` as the formula, which has a factor
            ``1 / K``. With the formula's conventions a weight is ``K / ln 10`` times the code's.

    Returns:
        A scalar between ``-log K`` (of ``sum``) and 0. It is finite, gradient included, where a
        class has probability 0.

    Raises:
        ValueError: If the reduction is unknown or the base is not above 1.
    """
    if not base > 1:
        raise ValueError(f"base={base} of a logarithm is not above 1")
    mean = in_full(mean)
    logarithm = mean.clamp_min(torch.finfo(mean.dtype).tiny).log() / math.log(base)
    return _reduced(mean * logarithm, 0, reduction)


@without_autocast
def batchnorm_statistics(
    found: Sequence[tuple[Tensor, Tensor]], stored: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """How far the inputs of BatchNorm layers are from what these layers have seen in training.

    ``sum_l |mu_l - mu_l^BN|_2 + |var_l - var_l^BN|_2``.

    Source: Yin et al. 2020 (DeepInversion), equation 4, from the formula.

    Args:
        found: Of each layer, means and variances ``(C,)`` over the batch.
        stored: Those that the layer keeps.

    Returns:
        A scalar of at least 0.

    Raises:
        ValueError: If there are no layers, or not the same ones.
    """
    if not found or len(found) != len(stored):
        raise ValueError(f"statistics of {len(found)} layers, compared with {len(stored)}")
    apart = [
        torch.linalg.vector_norm(in_full(ours) - in_full(theirs))
        for pair, kept in zip(found, stored, strict=True)
        for ours, theirs in zip(pair, kept, strict=True)
    ]
    return torch.stack(apart).sum()


@without_autocast
def discrepancy(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean absolute difference of the logits of two networks.

    The student minimises it. Whoever draws the images minimises minus it, and so finds those that
    the student does not know yet.

    Source: Fang et al. 2019 (DFAD), from the formula.

    Args:
        teacher: Logits ``(N, K)``.
        student: Logits ``(N, K)``.

    Returns:
        A scalar of at least 0.

    Raises:
        ValueError: If the shapes differ.
    """
    if teacher.shape != student.shape:
        raise ValueError(f"logits of {tuple(teacher.shape)} and {tuple(student.shape)}")
    return (in_full(teacher) - in_full(student)).abs().mean()


def _reduced(values: Tensor, axis: int, reduction: str) -> Tensor:
    if reduction not in (MEAN, SUM):
        raise ValueError(f"reduction={reduction} is neither {MEAN} nor {SUM}")
    return values.mean(axis) if reduction == MEAN else values.sum(axis)

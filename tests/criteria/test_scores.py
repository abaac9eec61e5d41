"""Criteria that rank filters one by one, and what all criteria have in common."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thinet.criteria import APoZ, Criterion, Random, ThiNet, ThiNetOMP, WeightSum, top
from thinet.statistics import ContributionMoments, Evidence, ZeroFraction
from thinet.statistics.contributions import Contributions
from thinet.statistics.zeros import Zeros

C = 12
DEAD = [2, 7]


@pytest.fixture
def activations():
    """Activations (rows, C) after a ReLU; channels 2 and 7 never fire."""
    generator = torch.Generator().manual_seed(0)
    shift = torch.linspace(-1, 1, C)[torch.randperm(C, generator=generator)]
    values = (torch.randn(400, C, generator=generator, dtype=torch.float64) + shift).relu()
    values[:, DEAD] = 0
    return values


def evidence(activations):
    gram = activations.T @ activations
    fraction = (activations == 0).double().mean(dim=0)
    return Evidence({
        ContributionMoments: Contributions(gram, len(activations)),
        ZeroFraction: Zeros(fraction, len(activations)),
    })  # fmt: skip


@pytest.fixture
def weight():
    return torch.randn(C, 4, 3, 3, generator=torch.Generator().manual_seed(1))


def test_top_keeps_the_highest_scores_and_of_equal_ones_the_first():
    scores = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 2.0])
    assert top(scores, 1).kept == [1]
    assert top(scores, 2).kept == [1, 3]
    assert top(scores, 4).kept == [1, 2, 3, 4]
    assert top(torch.zeros(300), 200).kept == list(range(200))


def test_weight_sum_is_the_l1_norm(weight):
    norms = np.abs(weight.numpy()).reshape(C, -1).sum(axis=1)
    for count in (1, 5, C):
        expected = sorted(np.argsort(-norms)[:count].tolist())
        assert WeightSum().select(weight, Evidence(), count, 0).kept == expected


def test_weight_sum_differs_from_the_l2_norm_where_it_should():
    spiky, flat = torch.tensor([3.0, 0, 0, 0]), torch.tensor([1.0, 1, 1, 1])
    assert WeightSum().select(torch.stack([spiky, flat]), Evidence(), 1, 0).kept == [1]


def test_apoz_keeps_what_fires_most_often(weight, activations):
    fires = (activations.numpy() > 0).mean(axis=0)
    expected = sorted(np.argsort(-fires, kind="stable")[:5].tolist())
    assert APoZ().select(weight, evidence(activations), 5, 0).kept == expected


def test_random_is_uniform_and_follows_its_seed(weight):
    draws = [tuple(Random().select(weight, Evidence(), 3, seed).kept) for seed in range(400)]
    assert draws[7] == tuple(Random().select(weight, Evidence(), 3, 7).kept)
    assert len(set(draws)) > 150  # of 220 possible
    counts = np.bincount(np.array(draws).ravel(), minlength=C)
    assert counts.min() > 60  # each is expected 100 times, standard deviation 8.7
    assert counts.max() < 140


CRITERIA = [ThiNet(), ThiNetOMP(), WeightSum(), APoZ(), Random()]


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda c: type(c).__name__)
def test_every_criterion_keeps_count_distinct_filters_and_repeats_itself(
    criterion: Criterion, weight, activations
):
    for count in range(1, C + 1):
        keep = criterion.select(weight, evidence(activations), count, 5).keep
        assert keep.dtype == torch.int64
        assert keep.shape == (count,)
        assert bool((keep.diff() > 0).all())
        assert torch.equal(keep, criterion.select(weight, evidence(activations), count, 5).keep)


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda c: type(c).__name__)
def test_every_criterion_drops_dead_filters_first(criterion, weight, activations):
    weight[DEAD] = 0  # dead to the criteria that look at weights, too
    for count in range(1, C - len(DEAD) + 1):
        kept = criterion.select(weight, evidence(activations), count, 3).kept
        assert not set(DEAD) & set(kept)


@pytest.mark.parametrize("criterion", CRITERIA[:-1], ids=lambda c: type(c).__name__)
def test_every_criterion_but_random_follows_a_permutation(criterion, weight, activations):
    order = torch.randperm(C, generator=torch.Generator().manual_seed(2))
    # The two dead channels are equal, so which of them stays is a matter of their index.
    kept = criterion.select(weight, evidence(activations), 6, 0).kept
    permuted = criterion.select(weight[order], evidence(activations[:, order]), 6, 0).kept
    assert sorted(int(order[j]) for j in permuted) == kept

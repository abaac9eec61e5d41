"""The TPAMI selection against literal orthogonal matching pursuit on stored samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thinet.pruning.criteria import Candidates, ThiNetOMP, forward_selection
from thinet.pruning.statistics import ContributionMoments, Evidence
from thinet.pruning.statistics.contributions import Contributions


def pursuit(X, count):
    """The authors' loop: best single explanation of the residual, then a fresh least squares."""
    y = X.sum(axis=1)
    residual, taken = y, []
    while len(taken) < count:
        best, least = None, np.inf
        for j in range(X.shape[1]):
            if j not in taken and X[:, j].any():
                t = (X[:, j] @ residual) / (X[:, j] @ X[:, j])
                norm = np.linalg.norm(residual - t * X[:, j])
                if norm < least:
                    best, least = j, norm
        taken.append(best)
        w = np.linalg.lstsq(X[:, taken], y, rcond=None)[0]
        residual = y - X[:, taken] @ w
    return taken


def samples(seed):
    rng = np.random.default_rng(seed)
    m, C = int(rng.integers(30, 81)), int(rng.integers(2, 13))
    X = rng.normal(size=(m, C)) * rng.uniform(0.1, 3, size=C)
    if seed % 3 == 1:
        X = np.maximum(X, 0) * rng.normal(size=(m, 1))
    elif seed % 3 == 2:
        X = rng.normal(size=(m, 3)) @ rng.normal(size=(3, C)) + 0.1 * X
    return X


def gram(X):
    return torch.from_numpy(X.T @ X)


@pytest.mark.parametrize("first", range(0, 320, 80))
def test_equals_literal_pursuit_with_refit(first):
    for seed in range(first, first + 80):
        X = samples(seed)
        # One short of all: the last step has no alternative, and the one before it, where any
        # choice leaves one channel to explain, is decided well above rounding.
        count = max(1, X.shape[1] - 1)
        assert forward_selection(gram(X), count).tolist() == pursuit(X, count), f"seed {seed}"


def test_all_channels_can_be_taken():
    for seed in range(30):
        C = samples(seed).shape[1]
        order = forward_selection(gram(samples(seed)), C)
        assert sorted(order.tolist()) == list(range(C))
        for count in range(1, C):
            assert forward_selection(gram(samples(seed)), count).tolist() == order[:count].tolist()


def test_dead_channels_come_last_and_are_taken_only_for_want_of_others():
    X = samples(0)[:, :2]
    X = np.stack([np.zeros(len(X)), X[:, 0], np.zeros(len(X)), X[:, 1]], axis=1)
    assert sorted(forward_selection(gram(X), 2).tolist()) == [1, 3]
    assert forward_selection(gram(X), 3)[2] == 0
    assert forward_selection(gram(X), 4)[2:].tolist() == [0, 2]


def test_of_duplicates_one_is_taken_the_lowest():
    rng = np.random.default_rng(1)
    a, b, c = rng.integers(-9, 10, size=(3, 60)).astype(float)
    X = np.stack([b, a, a, c, a], axis=1)  # a counts three times in y: it is the first
    order = forward_selection(gram(X), 5).tolist()
    assert order[0] == 1
    assert set(order[:3]) == {0, 1, 3}
    assert order[3:] == [2, 4]


def test_no_moments_at_all_still_gives_distinct_channels():
    assert forward_selection(torch.zeros(4, 4, dtype=torch.float64), 3).tolist() == [0, 1, 2]


def test_permuting_the_channels_permutes_the_answer():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(50, 9)) * rng.uniform(0.5, 2, size=9)
        order = rng.permutation(9)
        permuted = forward_selection(gram(X[:, order]), 5)
        assert [int(order[j]) for j in permuted] == forward_selection(gram(X), 5).tolist()


def test_criterion_keeps_the_taken_sorted():
    X = samples(5)
    evidence = Evidence({ContributionMoments: Contributions(gram(X), len(X))})
    candidates = Candidates("conv", X.shape[1], ())
    assert ThiNetOMP().rank(candidates, evidence, 0)[:3].tolist() == pursuit(X, 3)
    kept = ThiNetOMP().rank(candidates, evidence, seed=0)[:3].sort().values.tolist()
    assert kept == sorted(pursuit(X, 3))


def test_what_is_spanned_already_comes_by_its_size():
    """Powers of two: the arithmetic is exact, so that nothing is left of the multiples."""
    rng = np.random.default_rng(3)
    a, b = rng.integers(-9, 10, size=(2, 60)).astype(float)
    X = np.stack([np.zeros(60), a, 0.25 * a, 4 * a, b, 0.5 * a, 2 * a, np.zeros(60)], axis=1)
    order = forward_selection(gram(X), 8).tolist()
    assert set(order[:2]) == {1, 4}
    assert order[2:] == [3, 6, 5, 2, 0, 7]

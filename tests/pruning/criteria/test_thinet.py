"""ThiNet's greedy selection against a literal Algorithm 1 that holds the samples."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from thinet.pruning.criteria import Candidates, ThiNet, greedy_removal
from thinet.pruning.statistics import ContributionMoments, Evidence
from thinet.pruning.statistics.contributions import Contributions

PROBLEMS = 320


def algorithm_1(X, count):
    """ICCV, Algorithm 1, word by word; dead channels go first, ties to the lowest index."""
    removed = [j for j in range(X.shape[1]) if not X[:, j].any()][:count]
    while len(removed) < count:
        best, least = None, np.inf
        for i in range(X.shape[1]):
            if i not in removed:
                value = (X[:, [*removed, i]].sum(axis=1) ** 2).sum()
                if value < least:
                    best, least = i, value
        removed.append(best)
    return removed


def samples(seed):
    """A random problem and whether its arithmetic is exact: X of 20 to 80 rows, 2 to 12 columns."""
    rng = np.random.default_rng(seed)
    m, C = int(rng.integers(20, 81)), int(rng.integers(2, 13))
    kind = ("gaussian", "relu", "correlated", "ties", "duplicates", "dead", "shifted")[seed % 7]
    X = rng.normal(size=(m, C)) * rng.uniform(0.1, 3, size=C)
    if kind == "relu":
        X = np.maximum(X, 0) * rng.normal(size=(m, 1))
    elif kind == "correlated":
        X = rng.normal(size=(m, 3)) @ rng.normal(size=(3, C)) + 0.05 * X
    elif kind == "ties":
        X = rng.integers(-1, 2, size=(m, C)).astype(float)
    elif kind == "duplicates":
        X = rng.integers(-4, 5, size=(m, C)).astype(float)
        X[:, rng.integers(C, size=C // 2)] = X[:, [0]]
        X = X[:, rng.permutation(C)]
    elif kind == "dead":
        X = rng.integers(-9, 10, size=(m, C)).astype(float)
        X[:, rng.integers(C, size=1 + C // 3)] = 0.0
    elif kind == "shifted":
        X += rng.normal(size=C)
    return X, kind


def gram(X):
    return torch.from_numpy(X.T @ X)


def error(X, removed):
    return float((X[:, list(removed)].sum(axis=1) ** 2).sum())


@pytest.mark.parametrize("first", range(0, PROBLEMS, 80))
def test_equals_a_literal_algorithm_1(first):
    for seed in range(first, first + 80):
        X, kind = samples(seed)
        count = int(np.random.default_rng(seed).integers(0, X.shape[1] + 1))
        found = greedy_removal(gram(X), count)
        assert found.tolist() == algorithm_1(X, count), f"seed {seed}, {kind}"
        assert found.dtype == torch.int64


def test_a_longer_run_begins_like_a_shorter_one():
    for seed in range(50):
        G = gram(samples(seed)[0])
        full = greedy_removal(G, len(G)).tolist()
        assert sorted(full) == list(range(len(G)))
        for count in range(len(G)):
            assert greedy_removal(G, count).tolist() == full[:count]


def test_error_against_the_best_subset():
    """The mean ratio was 1.03 (median 1.00) where channels are independent.

    Where ten channels span three dimensions it was 5.3 (median 1.4, worst 130): greedy on eq. 6
    has no guarantee, and least squares afterwards is what makes up for it.
    """
    ratios = {True: [], False: []}
    for seed in range(700):
        X, kind = samples(seed)
        X = X[:, :10]
        C = X.shape[1]
        removed = greedy_removal(gram(X), C // 2).tolist()
        best = min(error(X, T) for T in combinations(range(C), C // 2))
        assert error(X, removed) >= best * (1 - 1e-12)
        if best > 0:
            ratios[kind == "correlated"].append(error(X, removed) / best)
    assert np.mean(ratios[False]) < 1.1
    assert np.median(ratios[True]) < 2.0


def test_cancelling_pair_is_missed_as_the_paper_would_miss_it():
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 100))
    X = np.stack([x, -x, 0.5 * noise], axis=1)
    assert greedy_removal(gram(X), 2).tolist() == algorithm_1(X, 2)
    assert greedy_removal(gram(X), 2)[0] == 2  # the optimum removes 0 and 1, for an error of zero


def test_permuting_the_channels_permutes_the_answer():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(50, 9)) * rng.uniform(0.5, 2, size=9)
        order = rng.permutation(9)
        plain, permuted = greedy_removal(gram(X), 5), greedy_removal(gram(X[:, order]), 5)
        assert [int(order[j]) for j in permuted] == plain.tolist()


def test_dead_channels_go_first_even_where_others_cancel():
    x = np.random.default_rng(0).normal(size=40)
    X = np.stack([0.1 * x, -0.1 * x, np.zeros(40), 3 * x, np.zeros(40)], axis=1)
    assert greedy_removal(gram(X), 2).tolist() == [2, 4]
    assert greedy_removal(gram(X), 1).tolist() == [2]
    assert greedy_removal(gram(X), 3).tolist() == [2, 4, 0]


def test_ties_go_to_the_lowest_index():
    X = np.ones((4, 5))
    assert greedy_removal(gram(X), 3).tolist() == [0, 1, 2]
    X[:, 3] = 0.5
    assert greedy_removal(gram(X), 3).tolist() == [3, 0, 1]


def test_moments_are_not_changed_and_single_precision_is_taken():
    X = samples(0)[0]
    G = gram(X)
    before = G.clone()
    order = greedy_removal(G, 3)
    assert torch.equal(G, before)
    assert torch.equal(greedy_removal(G.float(), 3), order)


def test_criterion_ranks_what_greedy_removes_last_first():
    X = samples(3)[0]
    evidence = Evidence({ContributionMoments: Contributions(gram(X), len(X))})
    C = X.shape[1]
    candidates = Candidates("conv", C, ())
    assert ThiNet().rank(candidates, evidence, 0).tolist() == algorithm_1(X, C)[::-1]
    for count in range(1, C + 1):
        kept = ThiNet().rank(candidates, evidence, seed=0)[:count].sort().values.tolist()
        assert kept == sorted(set(range(C)) - set(algorithm_1(X, C - count)))

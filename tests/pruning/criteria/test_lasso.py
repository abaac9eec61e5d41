"""The order on the LASSO path against coordinate descent on stored samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso as CoordinateDescent

from thinet.pruning.criteria import Candidates, Lasso, lasso_order
from thinet.pruning.statistics import ContributionMoments, Evidence
from thinet.pruning.statistics.contributions import Contributions


def samples(seed):
    rng = np.random.default_rng(seed)
    m, C = int(rng.integers(40, 81)), int(rng.integers(3, 11))
    X = rng.normal(size=(m, C)) * rng.uniform(0.3, 3, size=C)
    if seed % 3 == 1:
        X = np.maximum(X, 0) * rng.normal(size=(m, 1))
    elif seed % 3 == 2:
        X = rng.normal(size=(m, 3)) @ rng.normal(size=(3, C)) + 0.3 * X
    return X


def gram(X):
    return torch.from_numpy(X.T @ X)


def entries(X, points=400):
    """For each channel the first point of a falling grid of lambdas from which it stays in."""
    y = X.sum(axis=1)
    most = np.abs(X.T @ y).max() / len(X)
    model = CoordinateDescent(fit_intercept=False, tol=1e-10, max_iter=100_000, warm_start=True)
    inside = []
    for alpha in np.geomspace(most, most * 1e-4, points):
        inside.append(model.set_params(alpha=alpha).fit(X, y).coef_ != 0)
    outside = ~np.array(inside)
    return np.array([np.flatnonzero(column).max(initial=-1) for column in outside.T])


@pytest.mark.parametrize("first", [0, 12])
def test_equals_coordinate_descent_on_the_samples(first):
    left = 0
    for seed in range(first, first + 12):
        X = samples(seed)
        found = lasso_order(gram(X)).tolist()
        assert sorted(found) == list(range(X.shape[1]))
        enters = entries(X)[found]
        assert (np.diff(enters) >= -1).all(), f"seed {seed}"  # a grid point is its resolution
        left += (np.diff(enters) > 1).sum()
    assert left > 30  # decided by more than the grid's resolution


def test_a_channel_that_leaves_the_path_ranks_by_its_last_entry():
    """Found by search: channel 0 enters first, leaves, and is the last to come back."""
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(30, 2)) @ rng.normal(size=(2, 5)) + 0.2 * rng.normal(size=(30, 5))
        first = int(np.argmax(np.abs(X.T @ X.sum(axis=1))))
        if lasso_order(gram(X))[0] != first:
            enters = entries(X)
            assert enters[first] > enters.min() + 5
            return
    pytest.fail("no path with an exit")


def test_independent_channels_rank_by_energy():
    G = torch.diag(torch.tensor([2.0, 5.0, 0.0, 1.0, 5.0]).double())
    assert lasso_order(G).tolist() == [1, 4, 0, 3, 2]


def test_the_scale_of_the_samples_does_not_matter():
    X = samples(4)
    expected = lasso_order(gram(X))
    for scale in (1e-9, 1e-3, 1e6):
        assert torch.equal(lasso_order(gram(scale * X)), expected)


def test_copies_come_after_all_others():
    rng = np.random.default_rng(1)
    a, b, c = rng.normal(size=(3, 60))
    X = np.stack([b, a, a, 0.1 * c, np.zeros(60), a], axis=1)
    order = lasso_order(gram(X)).tolist()
    assert order[0] == 1  # it stands for three
    assert set(order[:3]) == {0, 1, 3}
    assert order[3:] == [2, 5, 4]


def test_channels_that_span_each_other_do_not_stop_it():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 12))
        order = lasso_order(gram(X)).tolist()
        assert sorted(order) == list(range(12))
        y = X.sum(axis=1)
        kept = X[:, order[:6]]
        rest = y - kept @ np.linalg.lstsq(kept, y, rcond=None)[0]
        assert np.linalg.norm(rest) < 1e-6 * np.linalg.norm(y)  # four of them say it all


def test_a_channel_that_active_ones_span_is_passed_over():
    """Scikit-learn's path alone mixes up the channels behind it, in one case of five."""
    for seed in (4, 8, 14, 19, 27, 30):
        rng = np.random.default_rng(seed)
        a, b, c, d, e, f = (
            rng.integers(-3, 4, size=(60, 6)).astype(float) * rng.choice([0.5, 1, 2], size=6)
        ).T
        X = np.stack([a + b, a, c, b, -0.5 * c, d, e, f, d - e], axis=1)
        enters = entries(X)[lasso_order(gram(X)).tolist()]
        assert (np.diff(enters) >= -1).all(), f"seed {seed}"


def test_no_moments_at_all_still_gives_an_order():
    assert lasso_order(torch.zeros(4, 4, dtype=torch.float64)).tolist() == [0, 1, 2, 3]
    x = np.ones((5, 1))
    assert lasso_order(gram(np.hstack([x, -x]))).tolist() == [0, 1]  # y is zero


def test_criterion_takes_the_contributions():
    X = samples(5)
    evidence = Evidence({ContributionMoments: Contributions(gram(X), len(X))})
    found = Lasso().rank(Candidates("conv", X.shape[1], ()), evidence, 0)
    assert torch.equal(found, lasso_order(gram(X)))

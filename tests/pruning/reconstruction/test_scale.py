"""The paper's factors against numpy's least squares on stored samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thinet.pruning.reconstruction import Scale, relative_error, scale_factors, solve
from thinet.pruning.statistics import ContributionMoments, Evidence
from thinet.pruning.statistics.contributions import Contributions
from thinet.surgery import Consumer


def problem(seed):
    rng = np.random.default_rng(seed)
    C = int(rng.integers(3, 15))
    X = rng.normal(size=(200, C)) @ (np.eye(C) + 0.4 * rng.normal(size=(C, C)))
    if seed % 2:
        X = np.maximum(X, 0)
    keep = np.sort(rng.choice(C, size=int(rng.integers(1, C)), replace=False))
    return X, keep


def gram(X):
    return torch.from_numpy(X.T @ X)


def test_equals_numpy_least_squares():
    for seed in range(200):
        X, keep = problem(seed)
        expected = np.linalg.lstsq(X[:, keep], X.sum(axis=1), rcond=None)[0]
        found = scale_factors(gram(X), torch.from_numpy(keep))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_relative_error_equals_the_direct_computation():
    for seed in range(100):
        X, keep = problem(seed)
        y, factors = X.sum(axis=1), np.random.default_rng(seed).normal(size=len(keep))
        G, kept = gram(X), torch.from_numpy(keep)
        plain = ((y - X[:, keep].sum(axis=1)) ** 2).sum() / (y**2).sum()
        scaled = ((y - X[:, keep] @ factors) ** 2).sum() / (y**2).sum()
        assert relative_error(G, kept) == pytest.approx(plain, rel=1e-9)
        assert relative_error(G, kept, torch.from_numpy(factors)) == pytest.approx(scaled, rel=1e-9)


def test_factors_never_make_the_error_worse():
    for seed in range(100):
        X, keep = problem(seed)
        G, kept = gram(X), torch.from_numpy(keep)
        for ridge in (0.0, 1e-4, 1.0):
            corrected = relative_error(G, kept, scale_factors(G, kept, ridge))
            assert corrected <= relative_error(G, kept) + 1e-12


def test_ridge_is_relative_and_draws_towards_no_correction():
    X, keep = problem(3)
    G, kept = gram(X), torch.from_numpy(keep)
    S, n = X[:, keep], len(keep)
    A = S.T @ S
    lam = 0.3 * A.diagonal().mean()
    rest = X.sum(axis=1) - S.sum(axis=1)
    # Ridge regression of w - 1, by its augmented least squares.
    augmented = np.vstack([S, np.sqrt(lam) * np.eye(n)])
    expected = 1 + np.linalg.lstsq(augmented, np.append(rest, np.zeros(n)), rcond=None)[0]
    np.testing.assert_allclose(scale_factors(G, kept, 0.3).numpy(), expected, rtol=1e-9)
    np.testing.assert_allclose(scale_factors(1e6 * G, kept, 0.3).numpy(), expected, rtol=1e-9)
    assert float((scale_factors(G, kept, 1e12) - 1).abs().max()) < 1e-9


@pytest.mark.parametrize("ridge", [0.0, 1e-6])
def test_rank_deficient_moments_give_finite_factors_that_fit_as_well_as_any(ridge):
    for seed in range(40):
        X, _ = problem(seed)
        rng = np.random.default_rng(seed)
        X = np.hstack([X, X[:, :2], np.zeros((len(X), 2))])  # duplicates and dead channels
        keep = np.sort(np.append(rng.choice(X.shape[1] - 4, 2, replace=False), [-4, -3, -2, -1]))
        keep = np.sort(keep % X.shape[1])
        if ridge == 0.0 and seed % 2:
            X = np.round(8 * X)  # exact arithmetic: the factorisation meets exact zeros
        y, kept = X.sum(axis=1), torch.from_numpy(keep)
        factors = scale_factors(gram(X), kept, ridge)
        assert bool(torch.isfinite(factors).all())
        assert float(factors.abs().max()) < 1e3
        best = np.linalg.lstsq(X[:, keep], y, rcond=None)[0]
        best = ((y - X[:, keep] @ best) ** 2).sum()
        reached = ((y - X[:, keep] @ factors.numpy()) ** 2).sum()
        assert reached <= best + 1e-4 * (y**2).sum()


def test_dead_channels_keep_the_factor_one():
    X, _ = problem(0)
    X[:, 1] = 0
    factors = scale_factors(gram(X), torch.tensor([0, 1, 2]), ridge=1e-6)
    assert factors[1] == 1


def test_nothing_removed_means_no_correction():
    X, _ = problem(2)
    assert torch.equal(scale_factors(gram(X), torch.arange(X.shape[1])), torch.ones(X.shape[1]))


def test_solve_refuses_what_no_ridge_can_help():
    with pytest.raises(ValueError, match="not finite"):
        solve(torch.full((2, 2), torch.nan), torch.ones(2, 1), 0.0)
    assert torch.equal(solve(torch.zeros(3, 3), torch.zeros(3, 1), 0.0), torch.zeros(3, 1))


@pytest.mark.parametrize("shape", [(5, 7, 3, 3), (5, 7)])
def test_correction_multiplies_what_reads_each_kept_filter(shape):
    X, _ = problem(8)
    X = X[:, :4] if X.shape[1] >= 4 else np.hstack([X, X])[:, :4]
    G, keep = gram(X), torch.tensor([0, 2])
    evidence = Evidence({ContributionMoments: Contributions(G, len(X))})
    # Inputs 0 and 5 come from filter 2, 1 from filter 0, 3 and 6 from elsewhere.
    consumer = Consumer("w", torch.tensor([2, 0, 1, -1, 3, 2, -1]), 1, 7)
    weight = torch.randn(shape)
    changed, shift = Scale(ridge=0.0).correct(weight, consumer, keep, evidence)
    assert shift is None
    first, second = np.linalg.lstsq(X[:, [0, 2]], X.sum(axis=1), rcond=None)[0]
    for place, factor in ((0, second), (1, first), (5, second), (3, 1.0), (6, 1.0)):
        torch.testing.assert_close(changed[:, place], weight[:, place] * factor)
    assert changed.dtype == weight.dtype


@pytest.mark.parametrize("ridge", [math.nan, math.inf, 1e300, 1e-4])
def test_solve_ends_whatever_it_is_given(ridge):
    for A in (
        torch.tensor([[1.0, 2.0], [2.0, 1.0]]),  # not positive semi-definite
        torch.full((2, 2), -1.0),
        torch.tensor([[1e308, 0.0], [0.0, 1e308]], dtype=torch.float64),  # its mean is infinite
        -torch.eye(2),
        torch.eye(2),
    ):
        try:
            found = solve(A.double(), torch.ones(2, 1, dtype=torch.float64), ridge)
        except ValueError:
            continue
        assert found.isfinite().all()
        assert math.isfinite(ridge)

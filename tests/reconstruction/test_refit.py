"""Full least squares of the next layer against numpy on stored patches."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from thinet.reconstruction import Refit, refit_weights
from thinet.statistics import Evidence, PatchMoments
from thinet.statistics.patches import Patches
from thinet.surgery import Consumer


def problem(seed, inputs=12, outputs=5):
    rng = np.random.default_rng(seed)
    U = rng.normal(size=(300, inputs)) @ (np.eye(inputs) + 0.4 * rng.normal(size=(inputs, inputs)))
    stays = np.zeros(inputs, dtype=bool)
    stays[rng.choice(inputs, size=int(rng.integers(1, inputs)), replace=False)] = True
    return np.maximum(U, 0) if seed % 2 else U, rng.normal(size=(outputs, inputs)), stays


def fit(U, W, stays, ridge=0.0):
    return refit_weights(
        torch.from_numpy(W), torch.from_numpy(U.T @ U), torch.from_numpy(stays), ridge
    ).numpy()


def test_equals_scipy_least_squares():
    for seed in range(100):
        U, W, stays = problem(seed)
        expected = scipy.linalg.lstsq(U[:, stays], U @ W.T)[0].T
        found = fit(U, W, stays)
        np.testing.assert_allclose(found[:, stays], expected, rtol=1e-8, atol=1e-9)
        np.testing.assert_array_equal(found[:, ~stays], W[:, ~stays])


def test_ridge_draws_towards_the_weights_before():
    U, W, stays = problem(1)
    S = U[:, stays]
    n, lam = S.shape[1], 0.2 * np.mean(np.sum(S**2, axis=0))
    augmented = np.vstack([S, np.sqrt(lam) * np.eye(n)])
    target = np.vstack([U @ W.T, np.sqrt(lam) * W[:, stays].T])
    expected = np.linalg.lstsq(augmented, target, rcond=None)[0].T
    np.testing.assert_allclose(fit(U, W, stays, 0.2)[:, stays], expected, rtol=1e-9)
    np.testing.assert_allclose(fit(U, W, stays, 1e12), W, atol=1e-9)


@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_rank_deficient_patches_give_finite_weights_that_fit_as_well_as_any(ridge):
    for seed in range(30):
        U, W, stays = problem(seed)
        U[:, 1] = U[:, 0]
        U[:, 2] = 0
        stays[:3] = True
        found = fit(U, W, stays, ridge)
        assert np.isfinite(found).all()
        assert np.abs(found).max() < 1e3
        best = U[:, stays] @ np.linalg.lstsq(U[:, stays], U @ W.T, rcond=None)[0]
        truth = U @ W.T
        reached = ((truth - U[:, stays] @ found[:, stays].T) ** 2).sum()
        assert reached <= ((truth - best) ** 2).sum() + 1e-3 * (truth**2).sum()


def test_nothing_removed_means_no_correction():
    U, W, _ = problem(4)
    np.testing.assert_array_equal(fit(U, W, np.ones(12, dtype=bool)), W)


@pytest.mark.parametrize("kernel", [1, 3])
def test_correction_of_a_convolution_groups_the_taps_of_a_channel(kernel):
    taps = kernel * kernel
    U, W, _ = problem(6, inputs=4 * taps, outputs=3)
    weight = torch.from_numpy(W).view(3, 4, kernel, kernel).float()
    # Input channel 1 comes from elsewhere; of the filters 0, 1, 2 only 0 and 2 stay.
    consumer = Consumer("w", torch.tensor([0, -1, 1, 2]), 1, 4 * taps)
    evidence = Evidence({PatchMoments: Patches({"w": torch.from_numpy(U.T @ U)}, len(U))})
    changed = Refit(ridge=0.0).correct(weight, consumer, torch.tensor([0, 2]), evidence)
    assert changed.shape == weight.shape
    assert changed.dtype == weight.dtype
    stays = np.repeat([True, True, False, True], taps)
    flat = weight.double().flatten(1).numpy()
    expected = np.linalg.lstsq(U[:, stays], U @ flat.T, rcond=None)[0].T
    np.testing.assert_allclose(changed.flatten(1)[:, stays], expected, rtol=1e-4, atol=1e-4)


def test_refit_is_never_worse_than_scale():
    # One factor a channel is a special case of fitting every weight.
    for seed in range(30):
        U, W, stays = problem(seed, outputs=1)
        X = U * W  # contributions to the one output
        factors = np.linalg.lstsq(X[:, stays], X.sum(axis=1), rcond=None)[0]
        scaled = ((X.sum(axis=1) - X[:, stays] @ factors) ** 2).sum()
        refitted = ((U @ W.T - U[:, stays] @ fit(U, W, stays)[:, stays].T) ** 2).sum()
        assert refitted <= scaled * (1 + 1e-9)

"""Full least squares of the next layer against numpy on stored patches."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from thinet.base.errors import ThinetError
from thinet.pruning.reconstruction import Refit, refit_from_rows, refit_weights
from thinet.pruning.statistics import Evidence, Moments, PatchMoments
from thinet.pruning.statistics.patches import Patches
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
    moments = Moments(torch.from_numpy(U.T @ U)[None], torch.from_numpy(U.sum(axis=0))[None], 300)
    evidence = Evidence({PatchMoments: Patches({"w": moments}, len(U))})
    found = Refit(ridge=0.0).correct(weight, consumer, torch.tensor([0, 2]), evidence)
    assert found.shift is None
    changed = found.weight
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


# The reconstruction as a whole: intercept, groups, rows, targets.


def moments_of(U, d=None):
    """U is (groups, rows, P), d (groups, rows, D / groups)."""
    U = torch.from_numpy(U)
    if d is None:
        return Moments(U.mT @ U, U.sum(dim=1), U.shape[1])
    d = torch.from_numpy(d)
    return Moments(U.mT @ U, U.sum(dim=1), U.shape[1], None, U.mT @ d, d.sum(dim=1))


def rows_of(U):
    """What a layer too large for moments keeps."""
    U = torch.from_numpy(U)
    return Moments(torch.zeros(1, U.shape[1], 0), U.sum(dim=0)[None], len(U), U.float())


def correct(refit, weight, consumer, keep, moments):
    evidence = Evidence({PatchMoments: Patches({consumer.weight: moments}, moments.count)})
    return refit.correct(weight, consumer, torch.tensor(keep), evidence)


def least_squares(U, target, intercept):
    """Weights (outputs, inputs) and constant (outputs,) of numpy's least squares."""
    if not intercept:
        return np.linalg.lstsq(U, target, rcond=None)[0].T, np.zeros(target.shape[1])
    found = np.linalg.lstsq(np.hstack([U, np.ones((len(U), 1))]), target, rcond=None)[0].T
    return found[:, :-1], found[:, -1]


@pytest.mark.parametrize("shift", [None, "bn.running_mean"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("aimed", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
def test_correction_equals_numpy_least_squares(groups, aimed, intercept, shift):
    rng = np.random.default_rng(groups)
    # 5 channels of 2 x 2 taps a group; the last but one is nobody's, 0 and 2 stay.
    U = np.maximum(rng.normal(0.7, 1, size=(groups, 400, 20)), 0)
    weight = torch.from_numpy(rng.normal(size=(6 * groups, 5, 2, 2)))
    d = rng.normal(0.5, 1, size=(groups, 400, 6)) if aimed else None
    channels = torch.tensor([0, 1, 2, -1, 3]).repeat(groups)
    consumer = Consumer("w", channels, 1, 20, groups=groups, shift=shift, outputs=6 * groups)
    refit = Refit("original" if aimed else "current", ridge=0.0, intercept=intercept)
    found = correct(refit, weight, consumer, [0, 2], moments_of(U, d))
    stays = np.repeat([True, False, True, True, False], 4)
    takes = intercept and shift is not None
    assert (found.shift is not None) == takes
    for group in range(groups):
        own = slice(6 * group, 6 * group + 6)
        target = U[group] @ weight[own].flatten(1).numpy().T + (0 if d is None else d[group])
        expected, constant = least_squares(U[group][:, stays], target, takes)
        flat = found.weight[own].flatten(1).numpy()
        np.testing.assert_allclose(flat[:, stays], expected, rtol=1e-8, atol=1e-9)
        if takes:
            np.testing.assert_allclose(found.shift[own].numpy(), constant, rtol=1e-8, atol=1e-9)


def test_the_mean_of_what_goes_costs_nothing_with_an_intercept():
    U = np.random.default_rng(0).normal(size=(1, 200, 6))
    U[:, :, 3:] = 7.0  # removed channels that are constant
    weight = torch.randn(4, 6, dtype=torch.float64)
    consumer = Consumer("w", torch.arange(6), 1, 6, shift="b", kind="linear", outputs=4)
    found = correct(Refit(ridge=0.0), weight, consumer, [0, 1, 2], moments_of(U))
    torch.testing.assert_close(found.weight[:, :3], weight[:, :3])
    torch.testing.assert_close(found.shift, 7.0 * weight[:, 3:].sum(dim=1))
    reader = [(consumer, weight)]
    evidence = Evidence({PatchMoments: Patches({"w": moments_of(U)}, 200)})
    assert Refit(ridge=0.0).loss(reader, torch.arange(3), evidence) < 1e-12
    assert Refit(ridge=0.0, intercept=False).loss(reader, torch.arange(3), evidence) > 0.1


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("count", [50, 300])
@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_rows_and_moments_give_one_solution_for_the_same_ridge(count, intercept, ridge):
    rng = np.random.default_rng(count)
    U = np.maximum(rng.normal(size=(count, 80)), 0).astype(np.float32).astype(np.float64)
    weight = torch.from_numpy(rng.normal(size=(5, 80)))
    channels = torch.arange(20).repeat_interleave(4)
    consumer = Consumer("w", channels, 1, 80, shift="b", kind="linear", outputs=5)
    refit = Refit(ridge=ridge, intercept=intercept)
    keep = list(range(0, 20, 2))
    primal = correct(refit, weight, consumer, keep, moments_of(U[None]))
    dual = correct(refit, weight, consumer, keep, rows_of(U))
    stays = torch.isin(channels, torch.tensor(keep))
    torch.testing.assert_close(dual.weight[:, stays], primal.weight[:, stays], rtol=1e-6, atol=1e-7)
    assert not torch.allclose(dual.weight[:, stays], weight[:, stays], rtol=1e-2)
    readers = [(consumer, weight)]
    losses = [
        refit.loss(
            readers, torch.tensor(keep), Evidence({PatchMoments: Patches({"w": one}, count)})
        )
        for one in (moments_of(U[None]), rows_of(U))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4, abs=1e-9)
    if intercept:
        torch.testing.assert_close(dual.shift, primal.shift, rtol=1e-6, atol=1e-6)


def test_rows_equal_the_augmented_least_squares():
    rng = np.random.default_rng(3)
    U, weight = rng.normal(size=(30, 60)), rng.normal(size=(4, 60))
    stays = np.arange(60) % 3 > 0
    S = U[:, stays]
    lam = 0.05 * np.mean(np.sum(S**2, axis=0))
    augmented = np.vstack([S, np.sqrt(lam) * np.eye(40)])
    target = np.vstack([U @ weight.T, np.sqrt(lam) * weight[:, stays].T])
    expected = np.linalg.lstsq(augmented, target, rcond=None)[0].T
    found = refit_from_rows(
        torch.from_numpy(weight), torch.from_numpy(U), torch.from_numpy(stays), 0.05
    ).numpy()
    np.testing.assert_allclose(found[:, stays], expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(found[:, ~stays], weight[:, ~stays])


def test_rows_without_a_ridge_are_fitted_exactly():
    rng = np.random.default_rng(4)
    U = rng.normal(size=(20, 60))  # fewer rows than unknowns: nothing need be lost
    weight = torch.from_numpy(rng.normal(size=(3, 60)))
    consumer = Consumer("w", torch.arange(60), 1, 60, kind="linear", outputs=3)
    keep = torch.arange(0, 60, 2)
    evidence = Evidence({PatchMoments: Patches({"w": rows_of(U)}, 20)})
    found = Refit(ridge=0.0).correct(weight, consumer, keep, evidence).weight
    y = torch.from_numpy(U) @ weight.T
    off = y - torch.from_numpy(U)[:, keep] @ found[:, keep].T
    assert float(off.abs().max()) < 1e-5 * float(y.abs().max())


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"target": "both"}, "current or original"), ({"ridge": -1.0}, "ridge=-1.0"),
     ({"ridge": float("nan")}, "ridge=nan")],
)  # fmt: skip
def test_senseless_settings_are_refused_in_one_sentence(settings, text):
    with pytest.raises(ThinetError, match=text) as caught:
        Refit(**settings)
    assert "\n" not in str(caught.value)


def test_only_the_original_target_wants_a_reference():
    assert Refit("original").aims_at_original
    assert not Refit().aims_at_original


def test_gains_of_kept_rows_are_met_up_to_a_constant():
    """Their mean, however large, is the constant's part: it must not drown in rounding.

    Rows that are centred have nothing to say about a constant; a tiny ridge would blow up what
    rounding leaves of it.
    """
    rng = np.random.default_rng(0)
    U, D = rng.normal(size=(40, 60)).astype(np.float32), 4
    gains = (rng.normal(size=(40, D)) + 1e5).astype(np.float32)
    weight = torch.from_numpy(rng.normal(size=(D, 60)))
    moments = Moments(
        torch.empty(1, 60, 0), torch.from_numpy(U.astype(np.float64).sum(0))[None], 40,
        torch.from_numpy(U), off=torch.from_numpy(gains.astype(np.float64).sum(0))[None],
        gains=torch.from_numpy(gains),
    )  # fmt: skip
    consumer = Consumer("w", torch.arange(60), 1, 60, shift="b", kind="linear", outputs=D)
    evidence = Evidence({PatchMoments: Patches({"w": moments}, 40)})
    found, shift = Refit(target="original", ridge=0.0).correct(
        weight, consumer, torch.arange(50), evidence
    )
    found, own = found[:, :50].numpy(), U.astype(np.float64)
    reached = own[:, :50] @ found.T + shift.numpy()
    wanted = own @ weight.numpy().T + gains
    np.testing.assert_allclose(reached, wanted, rtol=0, atol=1e-3)
    # As many unknowns as there are: of all that meet it the one nearest to the weights before.
    centred = own[:, :50] - own[:, :50].mean(axis=0)
    missing = wanted - wanted.mean(axis=0) - centred @ weight.numpy()[:, :50].T
    nearest = weight.numpy()[:, :50] + np.linalg.lstsq(centred, missing, rcond=1e-9)[0].T
    np.testing.assert_allclose(found, nearest, rtol=0, atol=1e-5)

"""Backward elimination against a fresh least squares for every candidate at every step."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from thinet.base.errors import ThinetError
from thinet.pruning.criteria import Candidates, LeastSquares, ThiNetRefit, backward_elimination
from thinet.pruning.statistics import Evidence, PatchMoments
from thinet.pruning.statistics.patches import Moments, Patches
from thinet.surgery import Consumer


def remaining(data, removed, ridge=0.0):
    """Error of the best refit of all problems that reads no removed unit, from the samples."""
    total = 0.0
    for X, W, units in data:
        stays = ~np.isin(units, list(removed))
        rows, target = X, X @ W.T
        if ridge:  # the same as samples of independent noise at the inputs
            noise = np.sqrt(ridge * (X**2).sum(axis=0).mean()) * np.eye(X.shape[1])
            rows, target = np.vstack([X, noise]), np.vstack([target, noise @ W.T])
        fitted = np.linalg.lstsq(rows[:, stays], target, rcond=None)[0]
        total += ((target - rows[:, stays] @ fitted) ** 2).sum()
    return total


def literal(data, units, count, ridge=0.0):
    order, costs, error = [], [], 0.0
    for _ in range(count):
        left = [unit for unit in range(units) if unit not in order]
        errors = [remaining(data, [*order, unit], ridge) for unit in left]
        best = int(np.argmin(errors))
        order.append(left[best])
        costs.append(errors[best] - error)
        error = errors[best]
    return order, costs


def problems(data):
    return [
        LeastSquares(torch.from_numpy(W), torch.from_numpy(X.T @ X), torch.from_numpy(units))
        for X, W, units in data
    ]


def samples(seed):
    """One to three layers whose units have one to four inputs each, some inputs of no unit."""
    rng = np.random.default_rng(seed)
    C = int(rng.integers(3, 8))
    data = []
    for _ in range(int(rng.integers(1, 4))):
        if seed % 2:
            units = np.repeat(np.arange(C), int(rng.integers(1, 4)))
        else:
            units = np.concatenate([np.arange(C), rng.integers(-1, C, size=2 * C)])
        units = rng.permutation(units)
        X = rng.normal(size=(120, len(units))) * rng.uniform(0.3, 3, size=len(units))
        X += rng.normal(size=(120, 2)) @ rng.normal(size=(2, len(units)))
        W = rng.normal(size=(int(rng.integers(1, 6)), len(units)))
        data.append((X, W, units))
    return data, C


@pytest.mark.parametrize("first", range(0, 60, 15))
def test_equals_refits_of_every_candidate(first):
    for seed in range(first, first + 15):
        data, C = samples(seed)
        order, costs = backward_elimination(problems(data), C, C, ridge=0.0)
        expected, increments = literal(data, C, C)
        assert order.tolist() == expected, f"seed {seed}"
        assert order.dtype == torch.int64
        torch.testing.assert_close(costs, torch.tensor(increments).double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ridge", [1e-4, 0.3])
def test_the_ridge_is_noise_at_the_inputs(ridge):
    for seed in range(10):
        data, C = samples(seed)
        order, costs = backward_elimination(problems(data), C, C, ridge)
        expected, increments = literal(data, C, C, ridge)
        assert order.tolist() == expected, f"seed {seed}"
        torch.testing.assert_close(costs, torch.tensor(increments).double(), rtol=1e-6, atol=1e-6)


def test_many_units_stay_exact_through_all_downdates():
    rng = np.random.default_rng(0)
    C, taps = 70, 9
    units = np.repeat(np.arange(C), taps)
    X = rng.normal(size=(900, C * taps)) + rng.normal(size=(900, 5)) @ rng.normal(
        size=(5, C * taps)
    )
    data = [(X, rng.normal(size=(6, C * taps)), units)]
    order, costs = backward_elimination(problems(data), C, C, ridge=0.0)
    assert sorted(order.tolist()) == list(range(C))
    for count in (1, 10, 35, 69, 70):
        expected = remaining(data, order[:count].tolist())
        assert float(costs[:count].sum()) == pytest.approx(expected, rel=1e-6)
    step = 40  # deep in, every candidate's refit says that this one was the best
    gone = order[:step].tolist()
    errors = {unit: remaining(data, [*gone, unit]) for unit in set(range(C)) - set(gone)}
    assert min(errors, key=lambda unit: errors[unit]) == int(order[step])


def test_a_longer_run_begins_like_a_shorter_one():
    data, C = samples(3)
    order, costs = backward_elimination(problems(data), C, C)
    for count in range(C):
        short, spent = backward_elimination(problems(data), C, count)
        assert torch.equal(short, order[:count])
        assert torch.equal(spent, costs[:count])


def test_refitted_error_is_not_that_of_the_plain_removal():
    """Two nearly equal loud channels: dropping one is dear as it is, and free after a refit."""
    rng = np.random.default_rng(0)
    x, quiet = rng.normal(size=(2, 200, 1))
    X = np.hstack([x, 0.3 * quiet, x + 0.01 * rng.normal(size=(200, 1))])
    data = [(X, np.ones((1, 3)), np.arange(3))]
    assert backward_elimination(problems(data), 3, 1)[0].tolist() == literal(data, 3, 1)[0]
    assert int(backward_elimination(problems(data), 3, 1)[0]) in (0, 2)


@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_fewer_rows_than_inputs_are_safe(ridge):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        units = np.repeat(np.arange(30), 4)
        X, W = rng.normal(size=(40, 120)), rng.normal(size=(3, 120))
        order, costs = backward_elimination(problems([(X, W, units)]), 30, 30, ridge)
        energy = ((X @ W.T) ** 2).sum()
        assert sorted(order.tolist()) == list(range(30))
        assert bool((costs >= 0).all())
        assert float(costs.sum()) == pytest.approx(energy, rel=1e-3)
        assert float(costs[:18].sum()) < 1e-2 * energy  # 48 inputs still say all that 40 rows ask


@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_one_of_a_pair_of_copies_goes_for_free(ridge):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        X, W = rng.normal(size=(80, 12)), rng.normal(size=(4, 12))
        X[:, [9, 10, 11]] = X[:, [3, 4, 5]]  # unit 3 is a copy of unit 1
        units = np.repeat(np.arange(4), 3)
        order, costs = backward_elimination(problems([(X, W, units)]), 4, 4, ridge)
        assert int(order[0]) in (1, 3)
        assert float(costs[0]) < 1e-3 * float(costs[1])
        assert float(costs.sum()) == pytest.approx(((X @ W.T) ** 2).sum(), rel=1e-3)
        W[:, [9, 10, 11]] = W[:, [3, 4, 5]]  # now nothing tells them apart
        order, _ = backward_elimination(problems([(X, W, units)]), 4, 4, ridge)
        assert int(order[0]) == 1


def test_dead_units_go_first_and_cost_nothing():
    rng = np.random.default_rng(0)
    X, W = rng.normal(size=(80, 12)), rng.normal(size=(4, 12))
    X[:, 6:9] = 0.0
    W[:, :3] = 0.0  # unit 0 is read with zero weight: as free, but it might have helped
    units = np.repeat(np.arange(4), 3)
    order, costs = backward_elimination(problems([(X, 1e3 * W, units)]), 4, 4)
    assert order[:2].tolist() == [2, 0]
    assert costs[:2].tolist() == [0.0, 0.0]
    nothing = LeastSquares(torch.ones(2, 3), torch.zeros(3, 3), torch.arange(3))
    assert backward_elimination([nothing], 3, 3)[0].tolist() == [0, 1, 2]
    assert backward_elimination([], 3, 2)[0].tolist() == [0, 1]


def test_moments_that_are_not_finite_are_refused():
    broken = LeastSquares(torch.ones(2, 3), torch.full((3, 3), torch.nan), torch.arange(3))
    with pytest.raises(ValueError, match="not finite"):
        backward_elimination([broken], 3, 1)


def moments(X, groups=1):
    parts = torch.from_numpy(np.stack(np.split(X, groups, axis=1)))
    return Moments(parts.mT @ parts, parts.sum(dim=1), len(X))


def group(*layers):
    """Candidates and evidence from (X, weight, channels, groups, shift) of each consumer."""
    readers, of = [], {}
    units = 1 + max(int(max(channels)) for _, _, channels, _, _ in layers)
    for number, (X, weight, channels, groups, shift) in enumerate(layers):
        unknowns = X.shape[1] // groups
        name = f"layer{number}.weight"
        consumer = Consumer(name, torch.tensor(channels), 1, unknowns, groups, shift)
        readers.append((consumer, torch.from_numpy(weight)))
        of[name] = moments(X, groups)
    candidates = Candidates("conv", units, (), readers=tuple(readers))
    return candidates, Evidence({PatchMoments: Patches(of, 100)})


def test_criterion_centres_only_where_something_takes_up_a_constant():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 10)) * rng.uniform(0.5, 2, size=10) + rng.normal(size=10) * 5
    W = rng.normal(size=(3, 5, 2, 1))
    units = np.repeat(np.arange(5), 2)
    centred = literal([(X - X.mean(axis=0), W.reshape(3, -1), units)], 5, 5)[0][::-1]
    plain = literal([(X, W.reshape(3, -1), units)], 5, 5)[0][::-1]
    assert centred != plain
    for shift, intercept, expected in [
        ("bn.running_mean", True, centred),
        ("bn.running_mean", False, plain),
        (None, True, plain),
    ]:
        found = ThiNetRefit(1e-9, intercept).rank(*group((X, W, range(5), 1, shift)), 0)
        assert found.tolist() == expected


def test_a_constant_channel_is_free_where_a_constant_is():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 4))
    X[:, 2] = 7.0
    layer = (X, rng.normal(size=(3, 4)), range(4), 1, "bias")
    assert ThiNetRefit().rank(*group(layer), 0)[-1] == 2
    assert ThiNetRefit(intercept=False).rank(*group(layer), 0)[-1] != 2


def test_a_grouped_convolution_equals_its_block_diagonal_dense_form():
    rng = np.random.default_rng(1)
    X, W = rng.normal(size=(200, 24)), rng.normal(size=(6, 4, 2, 1))
    X += rng.normal(size=(200, 3)) @ rng.normal(size=(3, 24))
    channels = list(range(4)) * 3
    dense = np.zeros((6, 12, 2, 1))
    for part in range(3):
        dense[2 * part : 2 * part + 2, 4 * part : 4 * part + 4] = W[2 * part : 2 * part + 2]
    data = [
        (X[:, 8 * part : 8 * part + 8], dense.reshape(6, 24)[:, 8 * part : 8 * part + 8],
         np.repeat(np.arange(4), 2))
        for part in range(3)
    ]  # fmt: skip
    found = ThiNetRefit(1e-9).rank(*group((X, W, channels, 3, None)), 0)
    assert found.tolist() == literal(data, 4, 4)[0][::-1]


def test_several_consumers_count_alike_whatever_their_scale():
    rng = np.random.default_rng(2)
    layers = [
        (rng.normal(size=(150, 12)) @ rng.normal(size=(12, 12)), rng.normal(size=(5, 6, 2, 1)),
         range(6), 1, None)
        for _ in range(2)
    ]  # fmt: skip
    scaled = [layers[0], (layers[1][0] * 1e4, *layers[1][1:])]
    expected = ThiNetRefit().rank(*group(*layers), 0)
    assert torch.equal(ThiNetRefit().rank(*group(*scaled), 0), expected)
    data = [
        (X, W.reshape(5, -1) / np.linalg.norm(X @ W.reshape(5, -1).T), np.repeat(np.arange(6), 2))
        for X, W, *_ in layers
    ]
    assert ThiNetRefit(1e-9).rank(*group(*layers), 0).tolist() == literal(data, 6, 6)[0][::-1]


def test_single_precision_weights_are_taken():
    layer = (np.random.default_rng(0).normal(size=(90, 6)), np.ones((2, 6)), range(6), 1, None)
    candidates, evidence = group(layer)
    halved = replace(
        candidates, readers=tuple((one, weight.float()) for one, weight in candidates.readers)
    )
    expected = ThiNetRefit().rank(candidates, evidence, 0)
    assert torch.equal(ThiNetRefit().rank(halved, evidence, 0), expected)


def test_consumers_that_are_too_large_are_refused_before_any_work():
    large = Consumer("classifier.0.weight", torch.arange(3), 1, 25_088)
    candidates = Candidates("features.28", 3, (), readers=((large, torch.ones(2, 3)),))
    with pytest.raises(ThinetError, match=r"25088 inputs of classifier\.0.*criterion=thinet"):
        ThiNetRefit().check(candidates)
    ThiNetRefit().check(replace(candidates, readers=((replace(large, unknowns=9), large),)))


def test_a_negative_ridge_is_refused():
    with pytest.raises(ThinetError, match="ridge=1e-4"):
        ThiNetRefit(ridge=-1.0)


@pytest.mark.parametrize("ridge", [math.nan, math.inf, 1e300])
def test_the_inversion_ends_whatever_the_ridge(ridge):
    problem = LeastSquares(torch.ones(1, 2), torch.eye(2), torch.arange(2))
    with contextlib.suppress(ValueError):
        order, costs = backward_elimination([problem], 2, 2, ridge)
        assert costs.isfinite().all()
        assert sorted(order.tolist()) == [0, 1]
    broken = LeastSquares(torch.ones(1, 2), torch.full((2, 2), torch.nan), torch.arange(2))
    with pytest.raises(ValueError, match="not finite"):
        backward_elimination([broken], 2, 2, ridge)

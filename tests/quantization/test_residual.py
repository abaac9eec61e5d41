"""Residual quantisation against known values, an identity, and gradients derived by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from thinet.base.errors import ThinetError
from thinet.quantization.residual import residual_binarize, residual_scales, sign

NORMAL_SCALES = (0.79788, 0.48262, 0.26844, 0.15967, 0.10134)
"""Of N(0, 1), orders 1 to 5, and the share of the variance that is left."""
NORMAL_ERRORS = (0.36338, 0.13045, 0.05839, 0.03290, 0.02263)
RECTIFIED_ERRORS = (0.6817, 0.2555, 0.1624, 0.0916)
STANDARDISED_ERRORS = (0.3748, 0.2382, 0.1344, 0.1045)


@pytest.fixture(scope="module")
def normal():
    """N(0, 1) without noise of its own: a million quantiles, as one image."""
    count = 1_000_000
    return torch.from_numpy(norm.ppf((np.arange(count) + 0.5) / count)).view(1, -1)


def left(x, order):
    return ((x - residual_binarize(x, order)).pow(2).mean() / x.pow(2).mean()).item()


def by_loops(x, order):
    """Numpy, one value at a time."""
    out, residual = np.zeros_like(x), x.copy()
    for _ in range(order):
        scale = sum(abs(value) for value in residual) / len(residual)
        for place, value in enumerate(residual):
            step = scale if value >= 0 else -scale
            out[place] += step
            residual[place] -= step
    return out


def test_a_sign_has_two_values():
    x = torch.tensor([-2.0, -0.0, 0.0, 1e-30, 3.0])
    assert sign(x).tolist() == [-1, 1, 1, 1, 1]
    assert sign(x.half()).dtype == torch.float16


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_a_normal_input(order, normal):
    scales = residual_scales(normal, order, (1,)).flatten().tolist()
    assert scales == pytest.approx(NORMAL_SCALES[:order], abs=2e-5)
    assert left(normal, order) == pytest.approx(NORMAL_ERRORS[order - 1], abs=2e-5)
    decibel = -10 * math.log10(left(normal, order))
    assert decibel == pytest.approx((4.40, 8.85, 12.34, 14.83, 16.45)[order - 1], abs=0.005)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_rectified_one_and_one_that_batchnorm_has_brought_back(order, normal):
    rectified = normal.clamp(min=0)
    assert left(rectified, order) == pytest.approx(RECTIFIED_ERRORS[order - 1], abs=2e-4)
    standard = (rectified - rectified.mean()) / rectified.std()
    assert left(standard, order) == pytest.approx(STANDARDISED_ERRORS[order - 1], abs=2e-4)


def test_greedy_is_not_the_least_there_is(normal):
    """Two scales chosen together leave .1175 of a normal input (at .98 and .53), greedy .1305."""
    joint = np.abs(np.abs(normal.numpy()) - 0.9816) - 0.5288
    assert (joint**2).mean() == pytest.approx(0.1175, abs=1e-4)
    assert left(normal, 2) > 0.130


@pytest.mark.parametrize("order", range(1, 9))
@pytest.mark.parametrize("kind", ["normal", "heavy", "one-sided", "few values"])
def test_the_error_falls_by_n_times_the_square_of_the_scale(kind, order):
    generator = torch.Generator().manual_seed(order)
    x = torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.float64)
    x = {"normal": x, "heavy": x**5, "one-sided": x.abs(), "few values": x.round()}[kind]
    scales = residual_scales(x, order, (1, 2, 3))
    before, count = x.pow(2).sum((1, 2, 3)), x[0].numel()
    after = (x - residual_binarize(x, order)).pow(2).sum((1, 2, 3))
    expected = before - count * scales.flatten(1).pow(2).sum(0)
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-12 * float(before.max()))


def test_what_order_one_and_two_leave_nothing_of():
    pattern = torch.tensor([[1.0, -1, -1, 1, 1, -1]])
    assert torch.equal(residual_binarize(0.7 * pattern, 1), 0.7 * pattern)
    a, b = 0.75, 0.25
    x = torch.tensor([[a + b, -(a + b), a - b, -(a - b)]])
    assert residual_scales(x, 2, (1,)).flatten().tolist() == [a, b]
    assert torch.equal(residual_binarize(x, 2), x)
    assert torch.equal(residual_binarize(torch.zeros(1, 5), 3), torch.zeros(1, 5))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_each_image_and_each_patch_has_scales_of_its_own(order):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    x *= torch.tensor([1.0, 10, 0.1], dtype=torch.float64).view(3, 1, 1)
    images, patches = residual_binarize(x, order), residual_binarize(x, order, "patch")
    for n in range(3):
        expected = by_loops(x[n].flatten().numpy(), order).reshape(4, 5)
        np.testing.assert_allclose(images[n].numpy(), expected, rtol=1e-12)
        for p in range(5):
            expected = by_loops(x[n, :, p].numpy(), order)
            np.testing.assert_allclose(patches[n, :, p].numpy(), expected, rtol=1e-12)


def test_constant_scales_are_taken_as_they_are():
    x = torch.tensor([[3.0, -0.2, 0.5]])
    made = residual_binarize(x, 2, torch.tensor([1.0, 0.5]))
    assert made.tolist() == [[1.5, -0.5, 0.5]]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("scale", ["sample", "patch", "constant"])
@pytest.mark.parametrize("clip", [1.0, 0.6])
def test_gradients_are_those_of_the_recursion_by_hand(scale, order, clip):
    """One value after the other: d b_k H_k / dx = b_k 1{|r| <= clip} dr/dx, scales held fixed."""
    generator = torch.Generator().manual_seed(order)
    x = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) * 1.2
    factor = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    fixed = torch.linspace(0.9, 0.2, order, dtype=torch.float64)
    axes = {"sample": (1, 2), "patch": (1,)}.get(scale)
    scales = (
        fixed.view(-1, 1, 1, 1).expand(-1, *x.shape)
        if axes is None
        else residual_scales(x, order, axes).expand(-1, *x.shape)
    )
    expected = torch.zeros_like(x)
    for place in np.ndindex(*x.shape):
        residual, slope, total = x[place].item(), 1.0, 0.0
        for k in range(order):
            size = scales[(k, *place)].item()
            part = size * slope if abs(residual) <= clip else 0.0
            total, slope = total + part, slope - part
            residual -= size if residual >= 0 else -size
        expected[place] = total * factor[place]
    given = x.clone().requires_grad_()
    residual_binarize(given, order, fixed if axes is None else scale, clip).backward(factor)
    torch.testing.assert_close(given.grad, expected, rtol=1e-12, atol=0)


def test_the_slope_of_two_orders_as_published():
    """.896 for scales of .8 and .48 within both windows."""
    x = torch.tensor([[0.5]], requires_grad=True)
    residual_binarize(x, 2, torch.tensor([0.8, 0.48])).sum().backward()
    assert x.grad.item() == pytest.approx(0.896)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scales_are_sums_in_float32(dtype):
    """The sum of 2^17 halves is beyond what a half can hold, and far beyond its digits."""
    x = torch.full((1, 2**17), 0.75, dtype=dtype)
    x[:, ::2] *= -1
    assert residual_scales(x, 1, (1,)).item() == 0.75
    for grad in (False, True):
        made = residual_binarize(x.clone().requires_grad_(grad), 1)
        assert made.dtype == dtype
        assert torch.equal(made.detach(), x)


def test_autocast_changes_nothing():
    x = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    wanted = residual_binarize(x, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(residual_binarize(x, 3), wanted)
        assert torch.equal(residual_binarize(x.requires_grad_(), 3).detach(), wanted)


@pytest.mark.parametrize("order", [0, 9, -1, 1.0, True, "2", None])
def test_what_is_no_order(order):
    with pytest.raises(ThinetError, match="whole number from 1 to 8: type for example order=2"):
        residual_binarize(torch.zeros(1, 2), order)


def test_what_is_no_scale():
    with pytest.raises(ThinetError, match="choose sample or patch"):
        residual_binarize(torch.zeros(1, 2), 1, "maps")
    with pytest.raises(ThinetError, match="unfold the images first"):
        residual_binarize(torch.zeros(1, 2, 3, 3), 1, "patch")
    with pytest.raises(ThinetError, match=r"shape \(2,\)"):
        residual_binarize(torch.zeros(1, 2), 2, torch.ones(3))

"""Weights of one bit: the best there are, their gradient by hand, and bits there and back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from thinet.quantization.weights import binarize_weight, filter_scales, pack_signs, unpack_bits


def test_no_other_signs_and_factor_are_closer():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 2, 2, 2, generator=generator, dtype=torch.float64)
    made = binarize_weight(weight)
    for o in range(3):
        row = weight[o].flatten().numpy()
        best = min(
            np.sum((row - row @ np.array(signs) / 8 * np.array(signs)) ** 2)
            for signs in itertools.product((-1, 1), repeat=8)
        )
        assert ((weight[o] - made[o]) ** 2).sum().item() == pytest.approx(best, rel=1e-12)
        assert made[o].abs().unique().numel() == 1


@pytest.mark.parametrize("clip", [1.0, 0.5])
def test_the_gradient_by_hand(clip):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(4, 3, 3, 3, generator=generator, dtype=torch.float64)
    given = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    latent = weight.clone().requires_grad_()
    binarize_weight(latent, clip).backward(given)
    for o in range(4):
        row, theirs = weight[o].flatten(), given[o].flatten()
        signs = [1.0 if value >= 0 else -1.0 for value in row.tolist()]
        alpha = sum(abs(value) for value in row.tolist()) / 27
        common = sum(g * s for g, s in zip(theirs.tolist(), signs, strict=True)) / 27
        expected = [
            s * common + (alpha * g if abs(w) <= clip else 0.0)
            for w, g, s in zip(row.tolist(), theirs.tolist(), signs, strict=True)
        ]
        np.testing.assert_allclose(latent.grad[o].flatten(), expected, rtol=1e-10)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 8), (2, 3, 3, 3), (4, 5, 1, 2), (2, 130)])
def test_bits_there_and_back(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight.view(-1)[0] = 0.0
    bits = pack_signs(weight)
    size = weight[0].numel()
    assert (bits.dtype, tuple(bits.shape)) == (torch.uint8, (shape[0], -(-size // 8)))
    expected = np.packbits(weight.flatten(1).numpy() >= 0, axis=1, bitorder="little")
    assert np.array_equal(bits.numpy(), expected)
    assert torch.equal(unpack_bits(bits, shape), weight >= 0)


def test_factors_are_sums_in_float32():
    weight = torch.full((2, 4096, 3, 3), 0.75, dtype=torch.float16)
    assert filter_scales(weight).tolist() == [0.75, 0.75]
    assert binarize_weight(weight).dtype == torch.float16

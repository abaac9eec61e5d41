"""Exported networks that round: undecided bits are let pass, faults are not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from thinet.artifacts import parity
from thinet.artifacts.parity import Observed, difference, difference_by_steps, relative, rounds
from thinet.quantization.layers import BinaryConv2d
from thinet.quantization.packed import packed
from thinet.quantization.settings import Quantizer

SHAPE = (6, 8, 8)


@pytest.fixture
def network(monkeypatch):
    """In one corner every bit is undecided: inputs there are at the mean of their BatchNorm."""
    torch.manual_seed(0)
    layer = BinaryConv2d.like(nn.Conv2d(6, 8, 3, padding=1), Quantizer(2), nn.BatchNorm2d(6))
    layer.norm.running_mean.fill_(0.5)
    images = torch.randn(3, *SHAPE)
    images[:, :, :3, :3] = 0.5
    monkeypatch.setattr(parity, "random_images", lambda batch, shape: images[:batch])
    return packed(nn.Sequential(layer, nn.Flatten(), nn.Linear(512, 4))).eval()


def shifted(network):
    network[0].norm.running_mean += 1e-6
    return network


def scaled(network):
    shifted(network)[0].scales *= 1.01
    return network


def flipped(network):
    shifted(network)[0].bits[0, 0] ^= 1
    return network


def biased(network):
    shifted(network)[2].bias.data += 0.01
    return network


@torch.no_grad()
def runs(network):
    """A stand-in for an exported network, and the one that shows its steps."""
    observed = Observed(network)
    return observed, lambda images: [network(images)]


def test_bits_that_rounding_decides_are_let_pass(network):
    assert rounds(network)
    assert not rounds(network[2])
    observed, run = runs(shifted(copy.deepcopy(network)))
    assert difference(network, run, SHAPE, 3) > 0.05, "outputs do differ"
    assert difference_by_steps(network, observed, run, SHAPE, 3) < 1e-5


@pytest.mark.parametrize("fault", [scaled, flipped, biased])
def test_a_fault_is_found_all_the_same(fault, network):
    observed, run = runs(fault(copy.deepcopy(network)))
    assert difference_by_steps(network, observed, run, SHAPE, 3) > 1e-3


def test_what_was_observed_has_to_be_what_is_run(network):
    observed, _ = runs(shifted(copy.deepcopy(network)))
    _, run = runs(biased(copy.deepcopy(network)))
    assert difference_by_steps(network, observed, run, SHAPE, 1) > 1e-3


def test_a_number_that_is_none_is_no_parity(network):
    broken = copy.deepcopy(network)
    broken[0].bias.data.fill_(torch.nan)
    observed, run = runs(broken)
    assert not difference_by_steps(network, observed, run, SHAPE, 1) <= 1e-4


def test_rounding_explains_what_modules_say_and_no_more():
    made, other = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.5]])
    assert relative(made, other, torch.tensor([[0.0, 0.5]])) == 0
    for slack in (0.0, torch.tensor([[0.5, 0.0]]), torch.tensor([[0.0, 0.4]])):
        assert relative(made, other, slack) > 0.03
    assert not relative(made * float("nan"), made) <= 1
    assert relative(made[:, :1], made) == float("inf")

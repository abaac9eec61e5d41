"""Foretold losses against cuts that were really made, and shares against the activations."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.pruning import loss_curves as allocation
from thinet.pruning.criteria import Criterion, Random, ThiNet
from thinet.pruning.group import Calibration, prune_groups_
from thinet.pruning.loss_curves import POINTS, loss_curves, shares
from thinet.pruning.reconstruction import NoReconstruction, Refit, Scale
from thinet.pruning.statistics import Reference, Sampling
from thinet.surgery import trace

ALL = Sampling(positions=None, exact=True)


class Stream(nn.Module):
    """Two residual blocks, one with BatchNorm, and a layer behind them that joins nothing."""

    def __init__(self, inner=20):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.a1, self.a2 = nn.Conv2d(6, inner, 3, padding=1), nn.Conv2d(inner, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.b1, self.b2 = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 6, 1)
        self.c, self.head = nn.Conv2d(6, 7, 3), nn.Linear(7, 3)

    def parts(self, x):
        """What both blocks add, and the sums."""
        x = self.stem(x).relu()
        first = self.bn(self.a2(self.a1(x).relu()))
        one = first + x
        second = self.b2(self.b1(one.relu()).relu())
        return first, one, second, one.relu() + second

    def forward(self, x):
        """Images (N, 3, H, W) to (N, 3)."""
        x = self.stem(x).relu()
        y = self.bn(self.a2(F.relu_(self.a1(x))))
        y += x
        x = F.relu_(y)
        x = x + self.b2(self.b1(x).relu())
        return self.head(self.c(x).relu().mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    found = Stream()
    found.bn.running_mean.normal_(0, 0.3)
    found.bn.weight.data.uniform_(0.5, 1.5)
    return found.double().eval()


@pytest.fixture
def images():
    return torch.randn(30, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("batch", [7, 30])
def test_shares_are_ratios_of_variances(net, images, batch):
    graph = trace(net, images[:1])
    groups = [graph.groups[name] for name in ("a1", "b1", "c")]
    found = shares(net, groups, Calibration(list(images), batch=batch))
    with torch.no_grad():
        first, one, second, two = net.parts(images)

    def variance(x):
        return float((x - x.mean((0, 2, 3), keepdim=True)).square().mean((0, 2, 3)).sum())

    expected = {
        "a2.weight": variance(first) / variance(one),
        "b2.weight": variance(second) / variance(two),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(min(1.0, value), rel=1e-9)
        assert 0.01 < found[name] < 1
    assert shares(net, groups[2:], Calibration(list(images))) == {}


def test_a_share_is_never_above_one(net, images):
    net.bn.weight.data.mul_(-1)  # what the block adds cancels its shortcut in part
    net.stem.weight.data.mul_(100)
    group = trace(net, images[:1]).groups["b1"]
    with torch.no_grad():
        net.b2.weight.mul_(1e-9)
        net.b2.bias.fill_(1000.0)  # a constant is no variance
    found = shares(net, [group], Calibration(list(images)))
    assert 0 <= found["b2.weight"] < 1e-12


class Backwards(Criterion):
    """Drops the first units first, so that losses are large."""

    def rank(self, candidates, evidence, seed):
        return torch.arange(candidates.units).flip(0)


@pytest.mark.parametrize("criterion", [ThiNet(), Random(), Backwards()])
@pytest.mark.parametrize(
    "reconstruction", [NoReconstruction(), Scale(), Refit(), Refit("original")]
)
def test_curves_fall_to_zero_and_are_the_losses_of_real_cuts(
    net, images, criterion, reconstruction
):
    calibration = Calibration(list(images), ALL, batch=11, reference=Reference(copy.deepcopy(net)))
    graph = trace(net, images[:1])
    names = ["a1", "b1", "c"]
    found = loss_curves(net, graph, names, criterion, reconstruction, calibration)
    assert list(found) == names
    weights = shares(net, [graph.groups[name] for name in names], calibration)
    for name in names:
        curve, units = found[name], graph.groups[name].units
        assert curve.shape == (units + 1,)
        assert curve[units] == 0.0
        assert (np.diff(curve) <= 0).all()
        assert curve[1] > 0
    # The losses of a1 at some of the widths that are worked out, by cutting.
    widths = sorted({max(1, round(20 * k / POINTS)) for k in range(1, POINTS)})
    measured = [lost(net, graph, n, criterion, reconstruction, images) for n in widths]
    falling = np.minimum.accumulate(measured) * weights["a2.weight"]
    np.testing.assert_allclose(found["a1"][widths], falling, rtol=1e-7, atol=1e-10)
    between = [n for n in range(1, 20) if n not in widths]
    for n in between:
        expected = (found["a1"][n - 1] + found["a1"][n + 1]) / 2
        assert found["a1"][n] == pytest.approx(expected, rel=1e-9)


def lost(net, graph, count, criterion, reconstruction, images):
    """What the reader of a1 loses when a1 keeps ``count`` filters, measured."""
    slim = copy.deepcopy(net)
    calibration = Calibration(list(images), ALL)
    if isinstance(reconstruction, Refit):
        reconstruction = Refit("current", reconstruction.ridge)
    prune_groups_(slim, graph, {"a1": count}, criterion, reconstruction, calibration)
    with torch.no_grad():
        x = net.stem(images).relu()
        before, after = (one.a2(one.a1(x).relu()) for one in (net, slim))
    energy = before - net.a2.bias.detach().view(-1, 1, 1)
    if isinstance(reconstruction, Refit):
        energy = energy - energy.mean((0, 2, 3), keepdim=True)
    return float((before - after).square().sum() / energy.square().sum())


def test_a_layer_of_one_filter_and_a_pair(images):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 1, 3), nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 1), nn.Flatten(),
        nn.Linear(48, 2),
    ).double()  # fmt: skip
    graph = trace(net, images[:1])
    calibration = Calibration(list(images), ALL)
    found = loss_curves(net, graph, ["0", "1"], ThiNet(), Scale(), calibration)
    assert found["0"].tolist() == [1.0, 0.0]
    assert found["1"][2] == 0 < found["1"][1] <= found["1"][0] == 1


def test_the_reference_is_not_run_for_a_network_that_is_still_whole(net, images):
    reference = copy.deepcopy(net)
    reference.register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
    calibration = Calibration(list(images), reference=Reference(reference))
    graph = trace(net, images[:1])
    assert loss_curves(net, graph, ["a1"], ThiNet(), Refit("original"), calibration)


@pytest.mark.parametrize("memory", [1, 30_000, 300_000, 2**30])
def test_parts_hold_every_group_once_within_the_memory(net, images, monkeypatch, memory):
    monkeypatch.setattr(allocation, "MEMORY", memory)
    graph = trace(net, images[:1])
    groups = [group for group in graph.groups.values() if group.consumers]
    sizes = {group.name: sum(8 * one.groups * one.unknowns**2 for one in group.consumers)
             for group in groups}  # fmt: skip
    parts = list(allocation.in_parts(groups, heavy=True))
    assert [group.name for part in parts for group in part] == [group.name for group in groups]
    for part in parts:
        assert len(part) == 1 or sum(sizes[group.name] for group in part) <= memory
    for part, after in pairwise(parts):  # no part could take the next group
        assert sum(sizes[group.name] for group in [*part, after[0]]) > memory
    assert len(list(allocation.in_parts(groups, heavy=False))) == 1
    assert list(allocation.in_parts([], heavy=True)) == []


def test_curves_do_not_depend_on_the_parts(net, images, monkeypatch):
    graph = trace(net, images[:1])
    calibration = Calibration(list(images), ALL)
    names = ["a1", "b1", "c"]
    whole = loss_curves(net, graph, names, ThiNet(), Refit(), calibration)
    monkeypatch.setattr(allocation, "MEMORY", 1)
    parts = loss_curves(net, graph, names, ThiNet(), Refit(), calibration)
    for name in names:
        np.testing.assert_array_equal(whole[name], parts[name])

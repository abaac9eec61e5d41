"""What BatchNorm layers see of a batch, against torch's own layers and sums by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.synthesis.parts import calm
from thinet.synthesis.statistics import batchnorms, over_all, stored_in, watching


class Various(nn.Module):
    """A layer that runs twice, one of vectors, one called by name; some that keep nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.nothing, self.other = nn.BatchNorm2d(3, track_running_stats=False), nn.GroupNorm(1, 3)
        self.vectors, self.rows = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        self.inputs: list[torch.Tensor] = []

    def forward(self, x):
        for layer in (self.first, self.twice, self.nothing, self.other, self.twice):
            self.inputs += [x] if layer in (self.first, self.twice) else []
            x = layer(input=x).relu() + 0.3
        self.inputs += [x.mean((2, 3)), x.flatten(2)]
        return self.vectors(self.inputs[-2]) + self.rows(self.inputs[-1]).mean(2)


def test_what_layers_see():
    torch.manual_seed(0)
    network = Various()
    for _ in range(3):
        network(2 + torch.randn(8, 3, 4, 4))
    network.eval()
    before = copy.deepcopy(network.state_dict())
    network.inputs.clear()
    images = torch.randn(5, 3, 4, 4, requires_grad=True)
    with watching(network) as read:
        network(images)
        found, stored = read()
    kept = (network.first, network.twice, network.twice, network.vectors, network.rows)
    assert len(found) == len(stored) == 5
    for (mean, variance), (old, past), seen, layer in zip(
        found, stored, network.inputs, kept, strict=True
    ):
        channel = seen.transpose(0, 1).flatten(1)
        torch.testing.assert_close(mean, channel.mean(1))
        torch.testing.assert_close(variance, channel.var(1, correction=0))
        assert torch.equal(old, layer.running_mean)
        assert torch.equal(past, layer.running_var)
    (gradient,) = torch.autograd.grad(found[3][0].sum() + found[3][1].sum(), images)
    assert bool(gradient.any())
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_it_is_what_training_would_store(teacher):
    """With a momentum of 1 a layer stores what it sees, of variances the unbiased one."""
    torch.manual_seed(0)
    images = torch.randn(16, 3, 8, 8)
    with watching(network := calm(teacher)) as read:
        network(images)
        found, _ = read()
    twin = copy.deepcopy(teacher).eval()
    first = twin[1].train()
    first.momentum = 1.0
    twin(images)
    count = 16 * 3 * 3
    mean, variance = found[0]
    torch.testing.assert_close(first.running_mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(first.running_var, variance * count / (count - 1))


def test_each_reading_begins_anew(teacher):
    network = calm(teacher)
    with watching(network) as read:
        network(torch.ones(2, 3, 8, 8))
        first = read()[0]
        network(torch.zeros(2, 3, 8, 8))
        second = read()[0]
    assert len(first) == len(second) == 2
    assert not torch.equal(first[0][0], second[0][0])


def test_hooks_go_when_something_breaks(teacher):
    with pytest.raises(RuntimeError), watching(teacher):
        teacher(torch.ones(2, 3, 1, 1))
    assert not any(module._forward_pre_hooks for module in teacher.modules())


def test_statistics_of_parts_are_those_of_the_whole():
    whole = 1000 + torch.randn(12, 3)  # squares of such numbers would leave no digit of a variance
    parts = whole.view(4, 3, 3)
    mean, variance = over_all(parts.mean(1), parts.var(1, correction=0))
    torch.testing.assert_close(mean, whole.mean(0))
    torch.testing.assert_close(variance, whole.var(0, correction=0), rtol=1e-3, atol=1e-4)


def test_halves_are_summed_in_full():
    network = nn.Sequential(nn.BatchNorm2d(1)).eval()
    images = (200 + torch.randn(8, 1, 16, 16)).half()
    with watching(network) as read, torch.autocast("cpu", dtype=torch.bfloat16):
        network(images)
        ((mean, variance),), _ = read()
    assert mean.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(variance, images.float().var(correction=0)[None])


def test_which_layers_keep_statistics():
    network = Various()
    assert list(batchnorms(network)) == ["first", "twice", "vectors", "rows"]
    assert stored_in(network.first)[1] is network.first.running_var

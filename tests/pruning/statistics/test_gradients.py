"""Gate gradients against per-image weight gradients.

A gate on an input channel scales that channel's weights, so its gradient is the sum of w dL/dw
over the channel's weights: an oracle that needs nothing but autograd on one image at a time.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.base.errors import ThinetError
from thinet.pruning.statistics import Sampling, collect, shard
from thinet.pruning.statistics.gradients import GateGradients, gate_gradients
from thinet.surgery import Consumer, trace


def by_weights(network, images, labels, name):
    """(N, input channels): all uses of the weight ``name`` together, one image at a time."""
    network = copy.deepcopy(network).requires_grad_(True)
    weight = network.get_parameter(name)
    found = []
    for image, label in zip(images, labels, strict=True):
        network.zero_grad()
        F.cross_entropy(network(image[None]), label[None]).backward()
        found.append((weight * weight.grad).movedim(1, 0).flatten(1).sum(dim=1).detach())
    return torch.stack(found)


def check(network, images, labels, watched):
    found = gate_gradients(network, images, labels, watched)
    assert set(found) == {(name, turn) for name, uses in watched.items() for turn in range(uses)}
    for name, uses in watched.items():
        total = sum(found[name, turn] for turn in range(uses))
        expected = by_weights(network, images, labels, name)
        assert float(expected.abs().max()) > 1e-3
        torch.testing.assert_close(total, expected, rtol=1e-9, atol=1e-12)


@pytest.fixture
def labels(images):
    return torch.randint(0, 5, (len(images),), generator=torch.Generator().manual_seed(2))


WATCHED = {"conv2.weight": 1, "conv3.weight": 1, "linear.weight": 1}


def test_equals_weight_gradients_of_single_images(network, images, labels):
    check(network, images[:9], labels[:9], WATCHED)


def test_a_frozen_network_has_the_same(network, images, labels):
    expected = gate_gradients(network, images, labels, WATCHED)
    frozen = gate_gradients(network.requires_grad_(False), images, labels, WATCHED)
    for key, value in expected.items():
        torch.testing.assert_close(frozen[key], value)
        assert not frozen[key].requires_grad
    with torch.no_grad():  # as the collection runs
        found = gate_gradients(network, images, labels, {"conv2.weight": 1})
    torch.testing.assert_close(found["conv2.weight", 0], expected["conv2.weight", 0])


def test_the_network_is_left_as_it_was(network, images, labels):
    before = copy.deepcopy(network.state_dict())
    gate_gradients(network, images, labels, WATCHED)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Odd(nn.Module):
    """A convolution used twice, functional calls by keyword, a transposed weight, tokens."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.shared = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.w1 = nn.Parameter(torch.randn(6, 4, 1, 1))
        self.w2 = nn.Parameter(torch.randn(6, 6))
        self.w3 = nn.Parameter(torch.randn(8, 6))
        self.tokens = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        """Images (N, 3, H, W) to (N, 5)."""
        x = F.relu(self.stem(x), inplace=True)
        x = torch.tanh(self.shared(torch.tanh(self.shared(x))))
        x = F.relu(F.conv2d(input=x, weight=self.w1, stride=2))
        x = x.flatten(2).transpose(1, 2)  # (N, positions, 6)
        x = torch.tanh(x @ self.w2.t())
        x = torch.tanh(torch.matmul(x, self.w3.T))
        x = x.reshape(-1, 3, 8)  # windows: (N * positions / 3, 3, 8)
        x = torch.tanh(self.tokens(x)).reshape(-1, 9, 8)
        return F.linear(x.mean(dim=1), weight=self.head.weight, bias=self.head.bias)


@pytest.fixture
def odd():
    torch.manual_seed(3)
    return Odd().double().eval()


@pytest.mark.parametrize(
    ("name", "uses"),
    [("w1", 1), ("w2", 1), ("w3", 1), ("tokens.weight", 1), ("head.weight", 1)],
)
def test_functional_calls_products_and_windows_are_seen(odd, images, labels, name, uses):
    check(odd, images[:5], labels[:5], {name: uses})


def test_a_module_used_twice_has_two_gates(odd, images, labels):
    found = gate_gradients(odd, images[:5], labels[:5], {"shared.weight": 2})
    first, second = found["shared.weight", 0], found["shared.weight", 1]
    assert first.shape == second.shape == (5, 4)
    assert not torch.allclose(first, second)
    # A grouped weight has no column a channel; a finite difference takes the oracle's place.
    step = 1e-6
    for channel in range(4):
        gate = torch.ones(4, 1, 1).double()
        gate[channel] += step
        changed = []
        for turn in range(2):
            calls = []

            def scale(_module, args, turn=turn, gate=gate, calls=calls):
                calls.append(0)
                return (args[0] * gate,) if len(calls) == turn + 1 else args

            handle = odd.shared.register_forward_pre_hook(scale)
            with torch.no_grad():
                changed.append(F.cross_entropy(odd(images[:5]), labels[:5], reduction="none"))
            handle.remove()
        with torch.no_grad():
            plain = F.cross_entropy(odd(images[:5]), labels[:5], reduction="none")
        for turn in range(2):
            slope = (changed[turn] - plain) / step
            torch.testing.assert_close(
                found["shared.weight", turn][:, channel], slope, rtol=1e-4, atol=1e-7
            )


def test_uses_that_are_not_asked_for_have_no_gate(odd, images, labels):
    two = gate_gradients(odd, images[:5], labels[:5], {"shared.weight": 2})
    one = gate_gradients(odd, images[:5], labels[:5], {"shared.weight": 1})
    assert set(one) == {("shared.weight", 0)}
    torch.testing.assert_close(one["shared.weight", 0], two["shared.weight", 0])


def test_half_precision_and_several_outputs_run(network, images, labels):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network

        def forward(self, x):
            y = self.net(x)
            return y, {"again": 2 * y}

    name = "net.conv2.weight"
    expected = gate_gradients(Two(), images, labels, {name: 1})[name, 0]
    low = Two().bfloat16()
    found = gate_gradients(low, images.bfloat16(), labels, {name: 1})[name, 0]
    assert float((found - expected).norm() / expected.norm()) < 0.2


def test_a_use_that_cannot_be_seen_is_reported(network, images, labels):
    with pytest.raises(ThinetError, match=r"use 2 of conv2\.weight.*criterion=thinet"):
        gate_gradients(network, images, labels, {"conv2.weight": 2})


def test_images_that_cannot_be_told_apart_are_reported():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(x.view(-1, 4).mean(dim=0, keepdim=True)).expand(len(x), 4)

    with pytest.raises(ThinetError, match=r"tell the images apart.*linear\.weight"):
        gate_gradients(Mixed(), torch.randn(3, 4), torch.zeros(3).long(), {"linear.weight": 1})


def importance(network, images, labels, units, consumers, batch):
    statistic = GateGradients(units, consumers)
    for part in torch.arange(len(images)).split(batch):
        gates = gate_gradients(network, images[part], labels[part], statistic.watched)
        statistic.update_gates(gates, part.tolist())
    return statistic.summary()


def test_importance_is_the_mean_square_whatever_the_batch(network, images, labels):
    consumers = (Consumer("conv3.weight", torch.arange(8), 1, 8),)
    expected = by_weights(network, images, labels, "conv3.weight").square().mean(dim=0)
    for batch in (1, 7, 64):
        found = importance(network, images, labels, 8, consumers, batch)
        torch.testing.assert_close(found.importance, expected, rtol=1e-9, atol=0)
        assert found.rows == len(images)


def test_features_of_a_unit_and_consumers_add_up_before_the_square(network, images, labels):
    flat = torch.arange(4).repeat_interleave(9)
    flat[0] = -1  # of nobody
    consumers = (
        Consumer("linear.weight", flat, 1, 36),
        Consumer("conv3.weight", torch.tensor([3, 2, 1, 0, 0, 0, -1, -1]), 1, 8),
    )
    found = importance(network, images, labels, 5, consumers, 16).importance
    linear = by_weights(network, images, labels, "linear.weight")
    conv = by_weights(network, images, labels, "conv3.weight")
    linear[:, 0] = 0
    expected = linear.view(-1, 4, 9).sum(dim=2)
    expected += torch.stack([conv[:, 3:6].sum(1), conv[:, 2], conv[:, 1], conv[:, 0]], dim=1)
    torch.testing.assert_close(found[:4], expected.square().mean(dim=0))
    assert float(found[4]) == 0.0


def test_gates_of_other_groups_are_ignored(network, images, labels):
    statistic = GateGradients(8, (Consumer("conv3.weight", torch.arange(8), 1, 8),))
    statistic.update_gates(gate_gradients(network, images, labels, WATCHED), list(range(70)))
    expected = by_weights(network, images, labels, "conv3.weight").square().mean(dim=0)
    torch.testing.assert_close(statistic.summary().importance, expected)


def test_it_is_not_fed_with_calls():
    assert GateGradients.gradients
    with pytest.raises(NotImplementedError, match="update_gates"):
        GateGradients(1, ()).update(None, None, None, [], 0)


def test_of_a_group(network, images, labels):
    group = trace(network, images[:1]).groups["conv3"]
    batches = shard(images, 0, 1, 16)
    found = collect(network, [group], [GateGradients], batches, Sampling(), len(images), labels)
    expected = by_weights(network, images, labels, "linear.weight").view(-1, 4, 9).sum(dim=2)
    torch.testing.assert_close(
        found["conv3"][GateGradients].importance, expected.square().mean(dim=0)
    )


def test_a_sure_network_in_half_precision_has_exact_gradients():
    """Near a probability of one bfloat16 knows nothing in between: the loss is taken in float32."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).bfloat16()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[7.0, 0.0], [0.0, 1.0]]))
    images = torch.ones(1, 2, 1, 1, dtype=torch.bfloat16)
    found = gate_gradients(net, images, torch.tensor([0]), {"1.weight": 1})["1.weight", 0]
    other = 1 / (1 + math.exp(6))
    assert found[0].tolist() == pytest.approx([-7 * other, other], rel=0.01)

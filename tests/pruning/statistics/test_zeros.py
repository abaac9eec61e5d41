"""Counted zeros against the activations that forward hooks capture."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.base.errors import ThinetError
from thinet.pruning.statistics import Sampling, ZeroFraction, collect, shard
from thinet.surgery import trace


def zeros(network, images, name, batch=16):
    group = trace(network, images[:1]).groups[name]
    batches = shard(images, 0, 1, batch)
    found = collect(network, [group], [ZeroFraction], batches, Sampling(), len(images))
    return found[name][ZeroFraction]


def captured(network, images, module):
    """What ``module`` receives: the activation after the ReLU, where nothing stands between."""
    seen = []
    handle = module.register_forward_pre_hook(lambda _m, args: seen.append(args[0].clone()))
    with torch.no_grad():
        network(images)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(("name", "reader"), [("conv1", "conv2"), ("conv2", "conv3")])
def test_functional_and_shared_relus_are_counted(network, images, name, reader):
    after = captured(network, images, network.get_submodule(reader))
    found = zeros(network, images, name)
    expected = (after == 0).double().mean(dim=(0, 2, 3))
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(found.fraction, expected)
    assert found.rows == after[:, 0].numel()


def test_a_relu_without_batchnorm_before_a_flattened_map(network, images):
    after = captured(network, images, network.linear).view(-1, 4, 9)
    found = zeros(network, images, "conv3")
    torch.testing.assert_close(found.fraction, (after == 0).double().mean(dim=(0, 2)))


@pytest.mark.parametrize(
    "rectify",
    [
        nn.ReLU(inplace=True), nn.ReLU6(), nn.Threshold(0, 0), lambda x: x.clamp(min=0),
        lambda x: x.clamp_min(0), F.relu_, lambda x: F.dropout(x, 0.5, training=False).relu(),
    ],
)  # fmt: skip
def test_all_kinds_of_rectifiers_are_recognised(rectify):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 3)

        def forward(self, x):
            return self.b(F.max_pool2d(rectify(self.a(x)), 2))

    torch.manual_seed(0)
    net, images = Net().double(), torch.randn(6, 3, 12, 12).double()
    expected = (net.a(images).relu() == 0).double().mean(dim=(0, 2, 3))
    torch.testing.assert_close(zeros(net, images, "a").fraction, expected)


def test_a_linear_layer_has_zeros_too():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    images = torch.randn(9, 3, 2, 2).double()
    expected = (net[:3](images) == 0).double().mean(dim=0)
    torch.testing.assert_close(zeros(net, images, "1").fraction, expected)


@pytest.mark.parametrize(
    "activation",
    [nn.Sigmoid(), nn.GELU(), nn.Hardtanh(), nn.Threshold(0.5, 0), nn.LeakyReLU(), nn.Identity()],
)
def test_without_a_relu_zeros_mean_nothing(activation):
    net = nn.Sequential(nn.Conv2d(3, 5, 3), activation, nn.Conv2d(5, 2, 3))
    with pytest.raises(ThinetError, match="criterion=thinet"):
        zeros(net, torch.randn(4, 3, 8, 8), "0")


def test_activations_that_are_not_finite_are_reported():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 3))
    images = torch.randn(4, 3, 8, 8)
    images[2, 0, 4, 4] = torch.nan
    with pytest.raises(ThinetError, match="not finite"):
        zeros(net, images, "0")


def test_what_is_exactly_zero_before_the_relu_is_a_zero():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).double()
    nn.init.zeros_(net[0].weight)
    with torch.no_grad():
        net[0].bias.copy_(torch.tensor([0.0, 1.0, -1.0, -0.0]))
    found = zeros(net, torch.randn(4, 3, 8, 8).double(), "0")
    assert found.fraction.tolist() == [1.0, 0.0, 1.0, 1.0]


def test_filters_of_one_unit_share_its_count():
    """Units of two filters each, because of the grouped reader."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2)).double()
    images = torch.randn(5, 3, 8, 8).double()
    units = trace(net, images[:1]).groups["0"].layers[0].units
    found = zeros(net, images, "0")
    every = (net[:2](images) == 0).double().mean(dim=(0, 2, 3))
    expected = torch.stack([every[units == unit].mean() for unit in range(4)])
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(found.fraction, expected)
    assert found.rows == 5 * 36

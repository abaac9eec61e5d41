"""Re-estimated BatchNorm statistics against averages computed by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from thinet.base.errors import ThinetError
from thinet.surgery import recalibrate_


@pytest.fixture
def network():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, momentum=0.3), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4, affine=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 2),
    )  # fmt: skip
    net[1].running_mean.fill_(9)  # stale, after many steps of training
    net[1].num_batches_tracked.fill_(100)
    return net


def moments(x):
    axes = [axis for axis in range(x.dim()) if axis != 1]
    return x.mean(axes), x.var(axes, unbiased=True)


def expected(net, batches):
    """Means over the batches of each layer's batch mean and unbiased variance, in float64."""
    net = copy.deepcopy(net).double()
    sums = {1: [], 5: [], 8: []}
    for batch in batches:
        x = batch.double()
        for place, module in enumerate(net):
            if place in sums:
                sums[place].append(moments(x))
                axes = [axis for axis in range(x.dim()) if axis != 1]
                mean, var = x.mean(axes, keepdim=True), x.var(axes, unbiased=False, keepdim=True)
                x = (x - mean) / (var + module.eps).sqrt()
                if module.affine:
                    shape = mean.shape
                    x = x * module.weight.view(shape) + module.bias.view(shape)
            elif not isinstance(module, nn.Dropout):
                x = module(x)
    return {
        place: tuple(torch.stack(values).mean(dim=0) for values in zip(*found, strict=True))
        for place, found in sums.items()
    }


def test_equals_the_cumulative_average_over_batches(network):
    batches = [torch.randn(n, 3, 9, 9) + shift for n, shift in ((8, 0.0), (8, 1.0), (4, -2.0))]
    with torch.no_grad():
        wanted = expected(network, batches)
    assert recalibrate_(network, batches) == 3
    for place, (mean, var) in wanted.items():
        torch.testing.assert_close(network[place].running_mean.double(), mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(network[place].running_var.double(), var, rtol=1e-5, atol=1e-5)


def test_modes_momenta_and_weights_are_left_as_they_were(network):
    network.train()
    network[1].eval()  # a frozen layer among others in training
    modes = [module.training for module in network.modules()]
    weights = [parameter.clone() for parameter in network.parameters()]
    recalibrate_(network, [torch.randn(4, 3, 9, 9)])
    assert [module.training for module in network.modules()] == modes
    assert network[1].momentum == 0.3
    assert network[5].momentum == 0.1
    for before, after in zip(weights, network.parameters(), strict=True):
        assert torch.equal(before, after)
        assert after.grad is None


def test_modes_come_back_when_a_batch_fails(network):
    network.train()
    with pytest.raises(RuntimeError):
        recalibrate_(network, [torch.randn(4, 5, 9, 9)])
    assert all(module.training for module in network.modules())
    assert network[1].momentum == 0.3


def test_a_last_single_image_is_left_out(network):
    batches = [torch.randn(6, 3, 9, 9)]
    recalibrate_(network, batches)
    mean = network[8].running_mean.clone()
    recalibrate_(network, [*batches, torch.randn(1, 3, 9, 9)])
    assert torch.equal(network[8].running_mean, mean)


def test_networks_without_statistics_do_not_run():
    def never(_):
        raise AssertionError

    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))
    net[0].register_forward_pre_hook(lambda *_: never(0))
    assert recalibrate_(net, [torch.randn(2, 3, 4, 4)]) == 0


def statistics(net):
    return [tensor.clone() for tensor in net.buffers()]


def failing(batches, error):
    yield from batches
    raise error


@pytest.mark.parametrize(
    ("batches", "error"),
    [
        ([torch.randn(4, 5, 9, 9)], RuntimeError),  # the first layer does not take it
        (failing([torch.randn(4, 3, 9, 9)], OSError("gone")), OSError),
        (failing([], ValueError("none")), ValueError),
        (failing([torch.randn(4, 3, 9, 9)], KeyboardInterrupt()), KeyboardInterrupt),
        ([torch.randn(1, 3, 9, 9)], ThinetError),  # the last layer sees one value a channel
        ([torch.randn(4, 3, 9, 9), torch.full((4, 3, 9, 9), torch.inf)], ThinetError),
        ([torch.full((4, 3, 9, 9), torch.nan)], ThinetError),
    ],
)
def test_statistics_are_as_before_when_it_fails(network, batches, error):
    recalibrate_(network, [torch.randn(4, 3, 9, 9)])
    before = statistics(network)
    with pytest.raises(error):
        recalibrate_(network, batches)
    for old, new in zip(before, statistics(network), strict=True):
        assert torch.equal(old, new)


def test_all_statistics_of_layers_out_of_reach_stay(network):
    """A pass that ends early says nothing about what lies behind its end."""
    with torch.no_grad():
        for place in (1, 5, 8):
            network[place].running_mean.uniform_(-3, 3)
            network[place].running_var.uniform_(2, 5)
            network[place].num_batches_tracked.fill_(7)
    before = copy.deepcopy(network.state_dict())
    assert recalibrate_(network, [torch.randn(4, 3, 9, 9)], forward=network[:3]) == 1
    for name, tensor in network.state_dict().items():
        stays = not name.startswith(("1.running", "1.num"))
        assert torch.equal(tensor, before[name]) == stays, name

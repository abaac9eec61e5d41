"""Cutting: what is replaced, what is shared, and what the modules say of themselves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from thinet.surgery import remove_, set_widths_, shared_copy, trace, widths


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 5, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(5 * 36, 4), nn.ReLU(), nn.Linear(4, 2),
    )  # fmt: skip


KEEP = {"0": [0, 3, 5], "4": [1], "7": [0, 2]}


def cut(network, keep=KEEP):
    return remove_(network, trace(network, torch.randn(1, 3, 8, 8)), keep)


def test_the_kept_entries_are_the_original_ones(network):
    before = copy.deepcopy(network)
    cut(network)
    keep = [0, 3, 5]
    assert torch.equal(network[0].weight, before[0].weight[keep])
    assert torch.equal(network[0].bias, before[0].bias[keep])
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(getattr(network[1], name), getattr(before[1], name)[keep])
    assert torch.equal(network[3].weight, before[3].weight[keep])
    assert torch.equal(network[4].weight, before[4].weight[[1]][:, keep])
    assert torch.equal(network[7].weight, before[7].weight[[0, 2], 36:72])
    assert torch.equal(network[9].weight, before[9].weight[:, [0, 2]])
    assert torch.equal(network[9].bias, before[9].bias)


def test_modules_say_their_new_sizes(network):
    cut(network)
    sizes = {"in_channels": 3, "out_channels": 3, "groups": 3}
    assert {key: getattr(network[3], key) for key in sizes} == sizes
    assert (network[0].in_channels, network[0].out_channels, network[0].groups) == (3, 3, 1)
    assert network[1].num_features == 3
    assert (network[7].in_features, network[7].out_features) == (36, 2)
    assert "Linear(in_features=36, out_features=2" in repr(network)


def test_parameters_stay_parameters_and_frozen_ones_frozen(network):
    network[0].weight.requires_grad_(False)
    cut(network)
    assert isinstance(network[0].weight, nn.Parameter)
    assert not network[0].weight.requires_grad
    assert network[0].bias.requires_grad
    assert not isinstance(network[1].running_mean, nn.Parameter)
    assert all(tensor.is_contiguous() for tensor in network.state_dict().values())
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    assert network[4].weight.grad.shape == (1, 3, 1, 1)


def test_a_shared_copy_can_be_cut_without_touching_the_original(network):
    state = {name: (tensor, tensor.clone()) for name, tensor in network.state_dict().items()}
    twin = shared_copy(network)
    assert twin[0].weight is network[0].weight
    cut(twin)
    assert twin[0].weight.shape[0] == 3
    assert network[0].out_channels == 6
    for name, tensor in network.state_dict().items():
        assert tensor.data_ptr() == state[name][0].data_ptr()
        assert torch.equal(tensor, state[name][1])


def test_a_copy_without_data_keeps_shapes_and_flags(network):
    network[0].weight.requires_grad_(False)
    twin = shared_copy(network, "meta")
    for (name, ours), theirs in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert theirs.is_meta, name
        assert (theirs.shape, theirs.requires_grad) == (ours.shape, ours.requires_grad)
    assert twin[1].running_mean.is_meta
    assert not network[0].weight.is_meta


def test_a_module_registered_twice_stays_one():
    conv = nn.Conv2d(4, 4, 3, padding=1)

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.first, self.again = nn.Conv2d(3, 4, 1), conv, conv
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            x = torch.relu(self.a(x))
            return self.head((self.first(x) + self.again(x)).mean((2, 3)))

    net = Tied()
    remove_(net, trace(net, torch.randn(1, 3, 6, 6)), {"a": [0, 1], "first": [1, 2, 3]})
    assert net.first.weight is net.again.weight
    assert net.first.weight.shape == (3, 2, 3, 3)
    assert net(torch.randn(2, 3, 6, 6)).shape == (2, 2)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(4, 8, 3, groups=2),
        nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(1, 5, 3), nn.ConvTranspose2d(4, 6, 2),
        nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Linear(3, 7), nn.BatchNorm2d(5),
        nn.BatchNorm2d(5, affine=False), nn.BatchNorm2d(5, affine=False, track_running_stats=False),
        nn.ReLU(), nn.LayerNorm(4),
    ],
    ids=repr,
)  # fmt: skip
def test_sizes_read_from_tensors_are_those_of_the_constructor(module):
    twin = copy.deepcopy(module)
    set_widths_(module, widths(module))
    assert repr(module) == repr(twin)
    assert vars(module).keys() == vars(twin).keys()
    for key in ("groups", "in_channels", "out_channels", "num_features"):
        assert getattr(module, key, None) == getattr(twin, key, None)


def test_one_remaining_depthwise_filter_is_a_plain_convolution(network):
    cut(network, {"0": [2]})
    assert (network[3].groups, network[3].in_channels, network[3].out_channels) == (1, 1, 1)
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 2)

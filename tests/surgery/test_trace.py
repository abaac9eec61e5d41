"""What a trace says beside what may go."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.surgery import owner, trace


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, stride=2), nn.BatchNorm2d(6)
        self.conv3 = nn.Conv2d(6, 6, 3, stride=2)
        self.shortcut = nn.Conv2d(6, 6, 3, stride=2)
        self.linear = nn.Linear(6 * 9, 4)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = torch.sigmoid(self.bn2(self.conv2(x)))
        return self.linear(F.relu(self.conv3(x) + self.shortcut(x)).flatten(1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def images():
    return torch.randn(1, 3, 16, 16)


def test_layers_are_listed_in_order_of_execution_with_their_sizes(network, images):
    layers = trace(network, images).layers
    assert list(layers) == ["conv1", "conv2", "conv3", "shortcut", "linear"]
    assert [layer.kind for layer in layers.values()] == ["conv"] * 4 + ["linear"]
    assert [layer.filters for layer in layers.values()] == [6, 6, 6, 6, 4]
    sizes = [layer.output_size for layer in layers.values()]
    assert sizes == [(16, 16), (7, 7), (3, 3), (3, 3), ()]


def test_readers_say_where_their_inputs_come_from(network, images):
    groups = trace(network, images).groups
    conv3, shortcut = groups["conv2"].consumers
    assert (conv3.name, shortcut.name) == ("conv3", "shortcut")
    assert (conv3.kind, conv3.unknowns, conv3.outputs, conv3.groups) == ("conv", 54, 6, 1)
    assert groups["conv1"].consumers[0].channels.tolist() == [0, 1, 2, 3, 4, 5]
    (linear,) = groups["conv3"].consumers
    assert (linear.name, linear.kind, linear.unknowns, linear.outputs) == (
        "linear",
        "linear",
        54,
        4,
    )
    assert linear.channels.tolist() == [k for k in range(6) for _ in range(9)]


def test_inputs_from_elsewhere_belong_to_no_unit():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.c, self.b = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(8, 4, 1)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            x = self.b(torch.cat([self.c(x), x, self.a(x).flip(1)], 1))
            return self.head(x.mean((2, 3)))

    groups = trace(Net(), torch.randn(1, 3, 4, 4)).groups
    assert groups["a"].consumers[0].channels.tolist() == [-1] * 6 + [1, 0]
    assert groups["c"].consumers[0].channels.tolist() == [0, 1, 2] + [-1] * 5


def test_reasons_are_given(network, images):
    graph = trace(network, images)
    assert graph.groups["conv1"].reason is None
    assert [layer.name for layer in graph.groups["conv3"].layers] == ["conv3", "shortcut"]
    assert graph.groups["conv3"].summed
    assert graph.group_of("shortcut") is graph.groups["conv3"]
    assert "output" in graph.groups["linear"].reason
    assert graph.prunable() == ["conv1", "conv2"]
    assert graph.prunable(summed=True) == ["conv1", "conv2", "conv3"]
    with pytest.raises(KeyError):
        graph.group_of("conv7")


def test_rectified_names_the_last_operation_before_a_relu(network, images):
    groups = trace(network, images).groups
    assert groups["conv1"].rectified.tensor == "bn1.weight"
    assert groups["conv1"].rectified.units.tolist() == [0, 1, 2, 3, 4, 5]
    assert groups["conv2"].rectified is None  # a sigmoid
    assert groups["conv3"].rectified is None  # the ReLU sees a sum


@pytest.mark.parametrize(
    ("activation", "rectifies"),
    [
        (F.relu, True), (F.relu6, True), (nn.ReLU(inplace=True), True), (nn.Hardtanh(), False),
        (lambda x: x.clamp(min=0), True), (lambda x: x.clamp(min=0.1), False), (F.gelu, False),
        (lambda x: F.threshold(x, 0.0, 0.0), True), (lambda x: F.threshold(x, 0.0, 1.0), False),
        (F.leaky_relu, False), (F.hardswish, False),
    ],
)  # fmt: skip
def test_only_what_zeroes_all_that_is_not_positive_rectifies(activation, rectifies):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(activation(self.a(x)).mean((2, 3)))

    follower = trace(Net(), torch.randn(1, 3, 4, 4)).groups["a"].rectified
    assert (follower is not None) == rectifies
    assert follower is None or follower.tensor == "a.weight"


def test_scales_are_the_batch_norms_on_the_channels(network, images):
    groups = trace(network, images).groups
    assert [scale.tensor for scale in groups["conv1"].scales] == ["bn1.weight"]
    assert groups["conv1"].scales[0].units.tolist() == [0, 1, 2, 3, 4, 5]
    assert groups["conv3"].scales == ()


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(network, images, training):
    network.train(training)
    network.bn1.train(not training)
    network.conv1.weight.requires_grad_(False)
    state = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    grads = [p.requires_grad for p in network.parameters()]
    trace(network, images)
    assert [module.training for module in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == grads
    assert all(p.grad is None for p in network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_the_network_is_left_as_it_was_when_it_fails(network):
    network.train()
    with pytest.raises(RuntimeError):
        trace(network, torch.randn(1, 5, 16, 16))
    assert all(module.training for module in network.modules())


def test_frozen_parameters_have_channels_too(network, images):
    network.requires_grad_(False)
    assert trace(network, images).prunable() == ["conv1", "conv2"]


def test_a_trace_without_data_finds_the_same(network, images):
    real = trace(network, images)
    bare = trace(copy.deepcopy(network).to("meta"), images.to("meta"))
    assert real.layers.keys() == bare.layers.keys()
    for name, group in real.groups.items():
        other = bare.groups[name]
        assert (group.reason, group.summed) == (other.reason, other.summed)
        assert torch.equal(group.labels, other.labels)
        for ours, theirs in zip(group.consumers, other.consumers, strict=True):
            assert (ours.weight, ours.shift, ours.joins) == (
                theirs.weight, theirs.shift, theirs.joins,
            )  # fmt: skip
            assert torch.equal(ours.channels, theirs.channels)


def test_weights_of_one_module_have_names_of_their_own():
    assert owner("features.0.weight") == "features.0"
    assert owner("block.w1") == "block.w1"
    assert owner("w1") == "w1"
    assert owner("weight") == "weight"


def test_a_computed_weight_freezes_what_it_reads():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 3)),
        nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(4 * 4, 2),
    )  # fmt: skip
    graph = trace(net, torch.randn(1, 3, 8, 8))
    assert graph.prunable() == ["3"]
    assert "computed weight" in graph.groups["0"].reason


def test_a_layer_that_nobody_reads_is_not_prunable():
    class Unread(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

        def forward(self, x):
            self.b(x)
            return self.head(self.a(x).mean((2, 3)))

    graph = trace(Unread(), torch.randn(1, 3, 4, 4))
    assert graph.prunable() == ["a"]
    assert graph.groups["b"].reason == "no layer reads them"

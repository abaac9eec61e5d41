"""What a trace says of layers beside their channels: joins, shifts, work and unfollowed layers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from thinet.metrics import cost
from thinet.metrics.cost import layer_costs
from thinet.surgery import trace
from thinet.surgery.observe import observe
from thinet.widths.resolve import resolve_layers

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """The pieces; c is the layer that is asked about."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.c = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.bn, self.bn2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.own()
        self.head = nn.Linear(6, 4)

    def own(self):
        """Further pieces of one network."""

    def out(self, x):
        return self.head(x.mean((2, 3)))


# -- joins ------------------------------------------------------------------------------------


def joins(net, size=16):
    return trace(net, torch.randn(1, 3, size, size)).facts.joins


def test_the_last_layer_of_a_residual_block_and_its_shortcut_are_added():
    found = joins(models.resnet18(num_classes=4), 32)
    lasts = {f"layer{k}.{j}.conv2.weight": 1 for k in range(1, 5) for j in range(2)}
    assert found == lasts | {f"layer{k}.0.downsample.0.weight": 1 for k in (2, 3, 4)}


def test_of_a_bottleneck_it_is_the_third():
    net = models.ResNet(models.resnet.Bottleneck, [1, 2, 1, 1], num_classes=4, width_per_group=8)
    blocks = ["layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer4.0"]
    expected = {f"{block}.conv3.weight": 1 for block in blocks}
    shortcuts = {f"{b}.downsample.0.weight": 1 for b in blocks if b.endswith(".0")}
    assert joins(net, 32) == expected | shortcuts


class PreActivation(Net):
    def forward(self, x):
        x = self.a(x)
        return self.out(x + self.c(F.relu(self.bn(x))))


class InPlace(Net):
    def forward(self, x):
        y = self.bn2(self.c(F.relu(self.bn(self.a(x)))))
        y += F.avg_pool2d(x, 1).repeat(1, 2, 1, 1)
        y += 1.0
        return self.out(y + y.sin())


class ChangedBefore(Net):
    """Before the addition something that is not of its shape was added in place."""

    def forward(self, x):
        y = self.bn2(self.c(F.relu(self.bn(self.a(x)))))
        y += x[:, :1]
        y += F.avg_pool2d(x, 1).repeat(1, 2, 1, 1)
        return self.out(y)


class Rectified(Net):
    def forward(self, x):
        x = F.relu(self.a(x))
        y = self.bn(self.c(x))
        F.relu_(y)
        return self.out(y + x)


class Scaled(Net):
    """Neither a multiple nor a difference is an addition as it is."""

    def forward(self, x):
        x = F.relu(self.a(x))
        y = self.bn(self.c(x))
        return self.out(torch.add(x, y, alpha=0.5) + torch.sub(x, y))


class TwoNorms(Net):
    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(x + self.bn2(self.bn(self.c(x))))


class AddedTwice(Net):
    def forward(self, x):
        x = F.relu(self.a(x))
        y = self.c(x)
        return self.out((x + y).relu() + (y + x * 2).tanh())


class UsedTwice(Net):
    def forward(self, x):
        x = F.relu(self.a(x))
        x = x + self.bn(self.c(x))
        return self.out(x + self.bn(self.c(x)))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (PreActivation, {"a.weight": 1, "c.weight": 1}), (InPlace, {"c.weight": 1}),
        (ChangedBefore, {}), (Rectified, {}), (Scaled, {}), (TwoNorms, {}),
        (AddedTwice, {"c.weight": 2}),
        (UsedTwice, {"c.weight": 2}),
    ],
)  # fmt: skip
def test_what_is_an_addition_of_a_layers_output(kind, expected):
    net = kind().eval()
    assert joins(net) == expected
    graph = trace(net, IMAGES[:1])
    for group in graph.groups.values():
        for consumer in group.consumers:
            assert consumer.joins == expected.get(consumer.weight, 0)


@pytest.mark.parametrize("kind", [PreActivation, InPlace, AddedTwice, UsedTwice])
def test_both_terms_are_seen_in_a_run(kind, randomise):
    net = randomise(kind())
    seen = []
    observe(
        net, IMAGES, {}, joins=joins(net),
        on_join=lambda join: seen.append((join, join.own.clone(), join.result.clone())),
    )  # fmt: skip
    assert len(seen) == sum(joins(net).values())
    outputs = {"a": [], "c": []}  # of the layers, or of the BatchNorm behind, by hooks

    def hook(name):
        return lambda _module, _inputs, output: outputs[name].append(output.detach().clone())

    norm = {PreActivation: net.c, InPlace: net.bn2, AddedTwice: net.c, UsedTwice: net.bn}[kind]
    handles = [norm.register_forward_hook(hook("c")), net.a.register_forward_hook(hook("a"))]
    net(IMAGES)
    for handle in handles:
        handle.remove()
    for join, own, result in seen:
        name = join.weight.removesuffix(".weight")
        expected = outputs[name][min(join.turn, len(outputs[name]) - 1)]
        torch.testing.assert_close(own, expected)
        assert (join.scale is not None) == isinstance(norm, nn.BatchNorm2d) or name == "a"
        if join.scale is not None:
            torch.testing.assert_close(
                join.scale, norm.weight * (norm.running_var + norm.eps) ** -0.5
            )
        assert not torch.allclose(result, own)


# -- shifts -----------------------------------------------------------------------------------


class OwnBias(Net):
    def forward(self, x):
        return self.out(F.relu(self.c(F.relu(self.a(x)))))


class BiasAndNorm(Net):
    def forward(self, x):
        return self.out(F.relu(self.bn(self.c(F.relu(self.a(x))))))


class NormBehind(BiasAndNorm):
    def own(self):
        self.c = nn.Conv2d(6, 6, 3, bias=False)


class NormOfGroups(BiasAndNorm):
    def own(self):
        self.c = nn.Conv2d(6, 6, 3, bias=False, groups=2)


class NormWithoutScale(BiasAndNorm):
    def own(self):
        self.c, self.bn = nn.Conv2d(6, 6, 3, bias=False), nn.BatchNorm2d(6, affine=False)


class NormTwice(NormBehind):
    """A module used twice, as often as the BatchNorm behind it."""

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(F.relu(self.bn(self.c(x))) * self.bn(self.c(x.flip(2))).sigmoid())


class BareLayer(NormBehind):
    def forward(self, x):
        return self.out(F.relu(self.c(F.relu(self.a(x)))))


class NormOfWhatIsLeft(NormBehind):
    def forward(self, x):
        return self.out(self.bn(F.relu(self.c(F.relu(self.a(x))))))


class AlsoReadBeforeTheNorm(NormBehind):
    def forward(self, x):
        x = self.c(F.relu(self.a(x)))
        return self.out(F.relu(self.bn(x))) + self.out(x.abs())


class TwoDifferentNorms(NormBehind):
    def forward(self, x):
        x = self.c(F.relu(self.a(x)))
        return self.out(F.relu(self.bn(x))) + self.out(self.bn2(x).abs())


class NormOfTwoLayers(NormBehind):
    def own(self):
        self.c, self.d = (nn.Conv2d(6, 6, 3, bias=False) for _ in range(2))

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(F.relu(self.bn(self.c(x)))) + self.out(self.bn(self.d(x)).abs())


class NormOfBatches(NormBehind):
    def own(self):
        self.c = nn.Conv2d(6, 6, 3, bias=False)
        self.bn = nn.BatchNorm2d(6, track_running_stats=False)


class AlsoReturned(NormBehind):
    def forward(self, x):
        x = self.c(F.relu(self.a(x)))
        return self.out(F.relu(self.bn(x))), x


class OneWeightTwoBiases(Net):
    def own(self):
        self.d = nn.Conv2d(6, 6, 3, padding=1)
        self.d.weight = self.c.weight

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(self.c(x) * self.d(x.flip(2)).sigmoid())


class OneBiasTwoWeights(Net):
    def own(self):
        self.d = nn.Conv2d(6, 6, 3, padding=1)
        self.d.bias = self.c.bias

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(self.c(x) * self.d(x.flip(2)).sigmoid())


class NotAlwaysWithBias(Net):
    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(self.c(x) * F.conv2d(x, self.c.weight, padding=1).sigmoid())


def shift(net, weight="c.weight"):
    return trace(net.eval(), IMAGES[:1]).facts.shifts.get(weight)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (OwnBias, "c.bias"), (BiasAndNorm, "c.bias"), (NormBehind, "bn.running_mean"),
        (NormOfGroups, "bn.running_mean"), (NormTwice, "bn.running_mean"),
        (NormWithoutScale, "bn.running_mean"),
    ],
)  # fmt: skip
def test_a_constant_added_to_the_output_is_taken_up(kind, expected, randomise):
    net = randomise(kind())
    assert shift(net) == expected
    assert [
        consumer.shift for consumer in trace(net, IMAGES[:1]).groups["a"].consumers
    ] == [expected]  # fmt: skip
    added = torch.randn(6)
    hooked, shifted = copy.deepcopy(net), copy.deepcopy(net)
    hooked.c.register_forward_hook(lambda _module, _inputs, output: output + added.view(6, 1, 1))
    tensor = shifted.state_dict()[expected]
    tensor.add_(added if expected == "c.bias" else -added)
    torch.testing.assert_close(shifted(IMAGES), hooked(IMAGES))
    assert not torch.allclose(shifted(IMAGES), net(IMAGES))


@pytest.mark.parametrize(
    "kind",
    [
        BareLayer, NormOfWhatIsLeft, AlsoReadBeforeTheNorm, TwoDifferentNorms, NormOfTwoLayers,
        NormOfBatches, AlsoReturned, OneWeightTwoBiases, OneBiasTwoWeights, NotAlwaysWithBias,
    ],
)  # fmt: skip
def test_where_nothing_takes_it_up(kind):
    assert shift(kind()) is None


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "regnet_y_400mf"])
def test_shifts_of_whole_networks(name, randomise):
    """Against what the modules' order says: convolutions without bias have a BatchNorm behind."""
    net = randomise(models.get_model(name, num_classes=4))
    found = trace(net, torch.randn(1, 3, 32, 32)).facts.shifts
    modules = [(k, m) for k, m in net.named_modules() if not list(m.children())]
    for (name, module), (behind, _) in zip(modules, [*modules[1:], ("", None)], strict=True):
        if isinstance(module, nn.Conv2d | nn.Linear):
            after = f"{behind}.running_mean" if module.bias is None else f"{name}.bias"
            assert found[f"{name}.weight"] == after


# -- work -------------------------------------------------------------------------------------


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.deep = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, groups=8, stride=2)
        self.grouped, self.up = nn.Conv2d(16, 12, 1, groups=4), nn.ConvTranspose2d(12, 6, 3, 2)
        self.rows, self.twice = nn.Linear(6, 6, bias=False), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.up(self.grouped(self.deep(self.a(x)).relu()))
        x = self.rows(x.movedim(1, -1)).movedim(-1, 1)
        x = self.twice(F.avg_pool2d(self.twice(x).relu(), 2))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(
    "make",
    [
        Everything, *(
            lambda name=name: models.get_model(name, num_classes=10)
            for name in ("resnet18", "shufflenet_v2_x0_5", "mobilenet_v3_small", "convnext_tiny")
        ),
    ],
    ids=["everything", "resnet18", "shufflenet", "mobilenet_v3", "convnext"],
)  # fmt: skip
@pytest.mark.parametrize("images", [1, 3])
def test_work_is_what_the_flop_counter_counts(make, images):
    with torch.device("meta"):
        net, batch = make().eval(), torch.empty(images, 3, 64, 64)
    work = trace(net, batch).facts.work
    flops = {name: 2 * times * net.get_parameter(name).numel() for name, times in work.items()}
    assert sum(flops.values()) == cost(net, (3, 64, 64)).flops
    for layer, found in layer_costs(net, (3, 64, 64)).items():
        assert flops[f"{layer}.weight"] == found.flops


# -- layers that cannot be followed -----------------------------------------------------------


class Unfollowed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1))
        self.deep, self.c = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1)
        self.auxiliary, self.head = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        x = self.c(self.deep(torch.softmax(self.normed(self.a(x)), 1))).relu().mean((2, 3))
        return self.head(x) + (self.auxiliary(x) if self.training else 0)


def test_layers_that_cannot_be_followed_are_named():
    """Pain of the peers' users: parametrised layers are left out, or break, without a word."""
    graph = trace(Unfollowed(), IMAGES[:1])
    names, skipped = resolve_layers(graph, "inner")
    assert names == ["c"]
    assert skipped.keys() == {"a", "normed", "deep", "auxiliary", "head"}
    assert skipped["a"] == "convolution with a computed weight"
    assert skipped["normed"] == "its weight is computed from other tensors"
    assert skipped["deep"] == "what it reads cannot be followed"
    assert skipped["auxiliary"] == "it does not run by itself in eval() mode"

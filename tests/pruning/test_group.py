"""Pruning one group: what thinet.prune and the experiment runs share."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import thinet
from thinet.pruning.criteria import L2, Criterion, Random, Taylor, ThiNet, WeightSum
from thinet.pruning.group import RECALIBRATION_BATCH, Calibration, prune_groups_
from thinet.pruning.reconstruction import NoReconstruction, Refit, Scale
from thinet.pruning.statistics import ContributionMoments, Sampling
from thinet.surgery import trace

IMAGES = torch.randn(20, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()


class Net(nn.Module):
    """A residual stream between two plain layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.bn = nn.Conv2d(3, 10, 3, padding=1), nn.BatchNorm2d(10)
        self.a, self.b = nn.Conv2d(10, 8, 3, padding=1), nn.Conv2d(8, 10, 1, bias=False)
        self.bn2, self.c, self.head = nn.BatchNorm2d(10), nn.Conv2d(10, 6, 3), nn.Linear(6, 4)
        for norm in (self.bn, self.bn2):
            norm.running_mean.normal_(0, 0.3)
            norm.weight.data.uniform_(0.5, 1.5)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(x + self.bn2(self.b(torch.relu(self.a(x)))))
        return self.head(torch.relu(self.c(x)).mean((2, 3)))


class Fixed(Criterion):
    """Keeps the units that a test names."""

    first = (1, 4)

    def rank(self, candidates, evidence, seed):
        rest = [k for k in range(candidates.units) if k not in self.first]
        return torch.tensor([*self.first, *rest])


@pytest.fixture
def network():
    return Net().double().eval()


@pytest.fixture
def graph(network):
    return trace(network, IMAGES[:1])


def test_the_units_chosen_stay_in_every_layer_of_the_group(network, graph):
    before = copy.deepcopy(network)
    records, after = prune_groups_(
        network, graph, {"stem": 2}, Fixed(), NoReconstruction(), Calibration(list(IMAGES))
    )
    assert [(r.layer, r.filters_before, r.kept) for r in records] == [
        ("stem", 10, [1, 4]), ("b", 10, [1, 4]),
    ]  # fmt: skip
    assert torch.equal(network.stem.weight, before.stem.weight[[1, 4]])
    assert torch.equal(network.c.weight, before.c.weight[:, [1, 4]])
    assert torch.equal(network.bn2.running_mean, before.bn2.running_mean[[1, 4]])
    assert after.groups["stem"].units == 2
    assert graph.groups["stem"].units == 10
    assert records[0].rows is records[0].error is records[0].error_corrected is None


def test_the_graph_that_comes_back_goes_on(network, graph):
    calibration = Calibration(list(IMAGES))
    for name, count in (("stem", 5), ("a", 4), ("c", 3)):
        records, graph = prune_groups_(
            network, graph, {name: count}, ThiNet(), Scale(), calibration
        )
        fresh = trace(network, IMAGES[:1])
        assert [group.units for group in graph.groups.values()] == [
            group.units for group in fresh.groups.values()
        ]
        assert records[0].rows is not None
        assert records[0].error_corrected < records[0].error
    assert network(IMAGES).isfinite().all()


def test_later_groups_are_judged_in_the_network_as_it_is_by_then(network, graph):
    result = thinet.prune(network, [IMAGES], 0.5, "thinet", "scale", "all", recalibrate_bn="never")
    calibration = Calibration(list(IMAGES))
    for name in ("stem", "a", "c"):
        count = graph.groups[name].units // 2
        _, graph = prune_groups_(network, graph, {name: count}, ThiNet(), Scale(), calibration)
    for ours, theirs in zip(network.parameters(), result.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["a", "stem"])
def test_a_constant_that_the_fit_adds_goes_where_it_is_taken_up(network, graph, name):
    """With an intercept the mean output of each reader is what it was: also before a BatchNorm."""
    readers = {"a": ["b"], "stem": ["c"]}[name]  # the stream's other reader, a, is cut with it
    means = {}
    full, slim = copy.deepcopy(network), network
    prune_groups_(slim, graph, {name: 3}, WeightSum(), Refit(ridge=1e-10), Calibration(
            list(IMAGES), Sampling(positions=None)
        ),
    )  # fmt: skip
    for reader in readers:
        behind = {"b": "bn2", "c": "c"}[reader]
        for net in (full, slim):
            net.get_submodule(behind).register_forward_hook(
                lambda _m, _i, out, net=net: means.__setitem__(net, out.mean((0, 2, 3)))
            )
        with torch.no_grad():
            full(IMAGES)
            slim(IMAGES)
        if name == "a":  # what b reads changes by this cut alone, so that its mean is met exactly
            torch.testing.assert_close(means[slim], means[full])
        else:
            assert means[slim].shape == means[full].shape
    if name == "a":
        assert not torch.equal(slim.bn2.running_mean, full.bn2.running_mean)
    else:
        assert not torch.equal(slim.c.bias, full.c.bias)


def test_recalibration_after_a_cut_is_seen_by_the_next(network, graph):
    stale = copy.deepcopy(network)
    records = {}
    for net, recalibrate in ((stale, False), (network, True)):
        found, now = prune_groups_(
            net,
            graph,
            {"stem": 4},
            L2(),
            NoReconstruction(),
            Calibration(list(IMAGES)),
            recalibrate,
        )
        assert found[0].kept == records.setdefault("stem", found[0].kept)
        assert now.groups["stem"].units == 4
    assert not torch.equal(stale.bn2.running_mean, network.bn2.running_mean)


def test_the_choice_depends_on_the_sampling_seed_and_the_layer_alone(network, graph):
    kept = {}
    for seed in (0, 1):
        calibration = Calibration(list(IMAGES), Sampling(seed=seed))
        for name in ("stem", "c"):
            for attempt in range(2):
                net = copy.deepcopy(network)
                records, _ = prune_groups_(
                    net, graph, {name: 3}, Random(), NoReconstruction(), calibration
                )
                assert records[0].kept == kept.setdefault((seed, name), records[0].kept), attempt
    assert len({tuple(units) for units in kept.values()}) > 1


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (64, [64]), (65, [33, 32]), (130, [44, 44, 42])]
)
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_recalibration_sees_even_batches_whatever_the_batch_is(count, sizes, batch):
    assert RECALIBRATION_BATCH == 64
    calibration = Calibration([IMAGES[0]] * count, batch=batch)
    assert [len(found) for found in calibration.batches()] == sizes
    assert [len(found) for found in replace(calibration, rank=1, world=2).batches()] == sizes


def test_groups_of_one_size_draw_for_themselves():
    """The seed of a choice holds the group's name: random layers would all keep the same places."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 40, 1), nn.ReLU(), nn.Conv2d(40, 40, 1), nn.ReLU(), nn.Conv2d(40, 2, 1)
    ).double()
    found = thinet.prune(net, [IMAGES], 0.5, "random", "none", layers=["0", "2"])
    first, second = (record.kept for record in found.layers)
    assert len(first) == len(second) == 20
    assert first != second


@pytest.mark.parametrize("ridge", [1e-6, 3.0])
def test_the_corrected_error_is_that_of_the_factors_that_were_applied(network, graph, ridge):
    sampling = Sampling(exact=True, positions=None)
    calibration = Calibration(list(IMAGES), sampling)
    evidence = calibration.collect(network, [graph.groups["a"]], ThiNet().needs)["a"]
    gram = evidence[ContributionMoments].gram
    before = network.b.weight.detach().clone()
    (record,), _ = prune_groups_(network, graph, {"a": 3}, Fixed(), Scale(ridge), calibration)
    kept = record.kept
    factors = torch.zeros(8).double()
    factors[kept] = (network.b.weight / before[:, kept]).mean((0, 2, 3)).detach()
    off = 1 - factors
    assert record.error_corrected == pytest.approx(float(off @ gram @ off / gram.sum()), rel=1e-9)
    plain = torch.ones(8).double()
    plain[kept] = 0
    assert record.error == pytest.approx(float(plain @ gram @ plain / gram.sum()), rel=1e-9)


@pytest.mark.parametrize("criterion", ["taylor", "thinet"])
def test_recalibration_after_each_cut_reaches_all_that_the_next_choice_looks_at(criterion):
    """The gradients of Taylor come from the loss, so that every BatchNorm matters to it."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    net = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).double()  # fmt: skip
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 2)  # stale: a choice on these would be another one
            module.running_var.uniform_(0.2, 5)
    labels = torch.arange(20) % 4
    found = thinet.prune(
        net, [(IMAGES, labels)], 0.5, criterion, "none", layers=["0", "3", "6"],
        recalibrate_bn="each",
    )  # fmt: skip
    slim, calibration = copy.deepcopy(net), Calibration(list(IMAGES), labels=labels)
    graph, chosen = trace(slim, IMAGES[:1]), {"taylor": Taylor, "thinet": ThiNet}[criterion]()
    for record in found.layers:
        (ours,), graph = prune_groups_(
            slim,
            graph,
            {record.layer: 4},
            chosen,
            NoReconstruction(),
            calibration,
            recalibrate=True,
        )
        assert ours == record
    for ours, theirs in zip(slim.state_dict().values(), found.model.state_dict().values(),
                            strict=True):  # fmt: skip
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)

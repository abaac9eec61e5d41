"""The graph of a network that was cut, worked out, is the one that a new trace finds."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torchvision import models

from thinet.surgery import remove_, shrink, trace


def named(name, **options):
    return partial(models.get_model, name, weights=None, num_classes=10, **options)


class Awkward(nn.Module):
    """Gated halves, groups, a module used twice, a gate, concatenation and a flattened map."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.twice = nn.Conv2d(6, 6, 3, padding=1)
        self.grouped, self.squeeze = nn.Conv2d(12, 16, 1, groups=2), nn.Linear(16, 6)
        self.excite, self.bn2 = nn.Linear(6, 16), nn.BatchNorm2d(16)
        self.many, self.head = nn.Linear(28 * 16, 9), nn.Linear(9, 4)

    def forward(self, x):
        x = self.bn(self.stem(x))
        left, right = x.chunk(2, 1)
        half = self.twice(torch.relu(self.twice(torch.relu(left * right.sigmoid()))))
        wide = torch.relu(self.bn2(self.grouped(torch.cat([half, half.tanh()], 1))))
        gate = self.excite(torch.relu(self.squeeze(wide.mean((2, 3))))).sigmoid()
        wide = torch.cat([wide * gate[:, :, None, None], torch.relu(x)], 1)
        return self.head(torch.relu(self.many(nn.functional.avg_pool2d(wide, 2).flatten(1))))


NETWORKS = {
    "awkward": (Awkward, 8),
    "resnet18": (named("resnet18"), 32),
    "mobilenet_v3": (named("mobilenet_v3_small"), 32),
    "shufflenet": (named("shufflenet_v2_x0_5"), 32),
    "regnet": (named("regnet_y_400mf"), 32),
    "densenet": (partial(models.DenseNet, 8, (3, 2), 12, num_classes=10), 32),
    "squeezenet": (named("squeezenet1_1"), 48),
}


def description(graph):
    """Everything that a graph says, with labels numbered by their first appearance."""
    number = {}

    def plain(labels):
        return [x if x < 0 else number.setdefault(x, len(number)) for x in labels.tolist()]

    def follower(found):
        return None if found is None else (found.tensor, found.units.tolist())

    uses = [(use.tensor, use.axis, use.role, plain(use.labels)) for use in graph.uses]
    groups = [
        {
            "name": group.name, "labels": plain(group.labels), "summed": group.summed,
            "layers": [
                (layer.weight, layer.kind, layer.output_size, layer.units.tolist())
                for layer in group.layers
            ],
            "consumers": [
                {**vars(consumer), "channels": consumer.channels.tolist()}
                for consumer in group.consumers
            ],
            "scales": [follower(scale) for scale in group.scales],
            "rectified": follower(group.rectified), "reason": group.reason,
        }
        for group in graph.groups.values()
    ]  # fmt: skip
    facts = {key: getattr(graph.facts, key) for key in ("calls", "work", "readers", "joins")}
    facts |= {key: getattr(graph.facts, key) for key in ("shifts", "scales", "whole", "produced")}
    return uses, groups, facts


def cuts(graph, seed):
    """Half of the units of each group, at least two of them (see the test of one unit)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randperm(graph.groups[name].units, generator=generator)[
            : max(2, graph.groups[name].units // 2)
        ].sort().values.tolist()
        for name in graph.prunable(summed=True)
    }  # fmt: skip


def assert_same(ours, theirs):
    for mine, fresh in zip(description(ours), description(theirs), strict=True):
        assert mine == fresh


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_after_all_cuts_is_that_of_the_slim_network(name):
    make, size = NETWORKS[name]
    torch.manual_seed(0)
    net, images = make().eval(), torch.randn(1, 3, size, size)
    graph = trace(net, images)
    keep = cuts(graph, 1)
    remove_(net, graph, keep)
    assert_same(shrink(graph, keep), trace(net, images))


@pytest.mark.parametrize("name", ["awkward", "resnet18", "densenet"])
def test_one_cut_after_the_other_is_all_at_once(name):
    make, size = NETWORKS[name]
    torch.manual_seed(0)
    net, images = make().eval(), torch.randn(1, 3, size, size)
    graph = trace(net, images)
    keep = cuts(graph, 2)
    whole = remove_(copy.deepcopy(net), graph, keep)
    expected, before = shrink(graph, keep), description(graph)
    now = graph
    for group, units in keep.items():
        remove_(net, now, {group: units})
        now = shrink(now, {group: units})
    assert_same(now, expected)
    assert_same(now, trace(net, images))
    assert description(graph) == before
    for ours, theirs in zip(net.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_one_unit_that_is_left():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 2),
    )  # fmt: skip
    images = torch.randn(1, 3, 8, 8)
    graph = trace(net, images)
    remove_(net, graph, {"0": [2], "3": [3]})
    assert_same(shrink(graph, {"0": [2], "3": [3]}), trace(net, images))

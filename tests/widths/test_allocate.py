"""The cost model against networks that were really cut; widths against brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from thinet.metrics import CostModel, cost, cost_model
from thinet.surgery import ChannelGraph, Group, Layer, remove_, shared_copy, trace
from thinet.surgery.graph import Facts
from thinet.widths.allocate import allocated_counts, uniform_counts
from thinet.widths.resolve import resolve_counts

SHAPE = (3, 32, 32)


class Mixed(nn.Module):
    """A grouped and a depthwise convolution, a concat, a layer used twice, a flattened map."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, groups=2, padding=1)
        self.depth = nn.Conv2d(24, 24, 3, groups=24, padding=1)
        self.twice = nn.Conv2d(24, 24, 1)
        self.bn = nn.BatchNorm2d(24)
        self.side = nn.Conv2d(16, 5, 3, padding=1, stride=2)
        self.fc1, self.fc2 = nn.Linear(29 * 16, 20), nn.Linear(20, 7)

    def forward(self, x):
        x = self.a(x).relu()
        side = self.side(x)
        x = self.bn(self.depth(self.b(x))).relu()
        x = self.twice(self.twice(x).relu())
        x = torch.cat([nn.functional.max_pool2d(x, 2), side], dim=1)
        x = nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)
        return self.fc2(self.fc1(x).relu())


def build(name):
    with torch.device("meta"):
        net = Mixed() if name == "mixed" else torchvision.models.get_model(name, num_classes=10)
    return net.eval(), trace(net.eval(), torch.empty(1, *SHAPE, device="meta"))


NETWORKS = ["vgg11_bn", "resnet18", "mobilenet_v2", "densenet121", "resnext50_32x4d", "mixed"]


@pytest.mark.parametrize(
    ("name", "summed"), [*((name, True) for name in NETWORKS), ("resnet18", False)]
)
def test_model_equals_the_cost_of_the_cut_network(name, summed):
    net, graph = build(name)
    names = graph.prunable(summed)
    models = {kind: cost_model(net, graph, names, kind, SHAPE) for kind in ("flops", "params")}
    whole = cost(net, SHAPE)
    ones = np.ones(len(names))
    for kind, model in models.items():
        assert model(ones) == pytest.approx(getattr(whole, kind), rel=1e-12)
    rng = np.random.default_rng(0)
    for _ in range(2):
        units = np.array([graph.groups[group].units for group in names])
        counts = rng.integers(1, units + 1)
        keep = {group: rng.permutation(size)[:n].tolist()
                for group, size, n in zip(names, units, counts, strict=True)}  # fmt: skip
        slim = cost(remove_(shared_copy(net), graph, keep), SHAPE)
        assert slim.flops < whole.flops
        for kind, model in models.items():
            assert model(counts / units) == pytest.approx(getattr(slim, kind), rel=1e-9)


def test_some_groups_alone_leave_the_others_at_full_width():
    net, graph = build("resnet18")
    names = graph.prunable(summed=True)[1::2]
    model = cost_model(net, graph, names, "flops", SHAPE)
    keep = {name: range(graph.groups[name].units // 2) for name in names}
    slim = cost(remove_(shared_copy(net), graph, keep), SHAPE)
    assert model(np.full(len(names), 0.5)) == pytest.approx(slim.flops, rel=1e-9)


def test_slopes_are_derivatives():
    net, graph = build("mixed")
    names = graph.prunable(summed=True)
    rng = np.random.default_rng(1)
    for kind in ("flops", "params"):
        model = cost_model(net, graph, names, kind, SHAPE)
        kept = rng.uniform(0.2, 1, len(names))
        steps = 1e-4 * np.eye(len(names))
        measured = [(model(kept + step) - model(kept - step)) / 2e-4 for step in steps]
        np.testing.assert_allclose(model.slopes(kept), measured, rtol=1e-5)
        assert (model.slopes(kept) > 0).all()


# Widths, on groups of plain layers.


def graph_of(*units, filters=None):
    groups = {}
    for place, size in enumerate(units):
        many = size if filters is None else filters[place]
        layer = Layer(f"g{place}", f"g{place}.weight", "conv", (), torch.arange(many) % size)
        groups[f"g{place}"] = Group(f"g{place}", (layer,), torch.arange(size))
    return ChannelGraph(groups, (), Facts())


def fits_within(model, graph, budget):
    def fits(counts):
        kept = np.array([counts[name] / graph.groups[name].units for name in model.names])
        return model(kept) <= budget

    return fits


def random_model(rng, names):
    """A chain: each weight has one group at its input and the next one at its output."""
    many = len(names)
    slope = np.zeros((2, many + 1, many))
    for place in range(many):
        slope[0, place, place] = slope[1, place + 1, place] = 1.0
    scale = rng.uniform(0.2, 3, many + 1)
    return CostModel(tuple(names), rng.uniform(0, 0.5), scale, 1 - slope.sum(axis=2), slope)


@pytest.mark.parametrize("round_to", [1, 4, 8])
@pytest.mark.parametrize("seed", range(8))
def test_uniform_widths_equal_a_search_over_all_ratios(seed, round_to):
    rng = np.random.default_rng(seed)
    graph = graph_of(*rng.integers(3, 40, size=3))
    names = list(graph.groups)
    model = random_model(rng, names)
    # Widths change at multiples of 1 / (2 units); a little above each is a width of its own.
    marks = {k / (2 * group.units) for group in graph.groups.values()
             for k in range(1, 2 * group.units + 1)}  # fmt: skip
    ratios = [min(1.0, mark + 1e-7) for mark in sorted(marks)] + [1e-6]
    for fraction in (0.2, 0.5, 0.8, 0.95):
        fits = fits_within(model, graph, fraction * model(np.ones(3)))
        best = None
        for ratio in sorted(ratios):
            try:
                counts = resolve_counts(graph, names, ratio, round_to)
            except Exception:  # everything would stay
                counts = {name: graph.groups[name].units for name in names}
            if fits(counts):
                best = counts
        assert uniform_counts(graph, names, round_to, fits) == best


def test_widths_out_of_reach_and_within_reach_without_a_cut():
    graph = graph_of(8, 8)
    assert uniform_counts(graph, ["g0", "g1"], 1, lambda _: False) is None
    assert uniform_counts(graph, ["g0", "g1"], 1, lambda _: True) == {"g0": 8, "g1": 8}
    model = random_model(np.random.default_rng(0), ["g0", "g1"])
    losses = {name: np.linspace(1, 0, 9) for name in model.names}
    assert allocated_counts(graph, model, losses, 1, lambda _: False) is None
    assert allocated_counts(graph, model, losses, 1, lambda _: True) == {"g0": 8, "g1": 8}


def convex(rng, units):
    """A falling convex loss: entry n with n kept units, 0 at full width."""
    steps = np.sort(rng.exponential(size=units))[::-1] ** 2
    return np.append(np.cumsum(steps[::-1])[::-1], 0.0)


@pytest.mark.parametrize("seed", range(12))
def test_allocation_is_optimal_up_to_its_last_step(seed):
    """With a cost that is linear in the widths, greedy steps on convex losses are optimal.

    At each cost on its way the loss is the least; so it is at most that of the best widths at the
    cost before its last step, plus what that step loses.
    """
    rng = np.random.default_rng(seed)
    graph = graph_of(6, 5, 7)
    names = list(graph.groups)
    sizes = [graph.groups[name].units for name in names]
    slope = np.zeros((2, 3, 3))
    slope[0] = np.eye(3)
    model = CostModel(tuple(names), 0.1, rng.uniform(0.5, 2, 3), 1 - slope.sum(axis=2), slope)
    losses = {name: convex(rng, size) for name, size in zip(names, sizes, strict=True)}
    every = list(product(*(range(1, size + 1) for size in sizes)))

    def loss(counts):
        return sum(losses[name][n] for name, n in zip(names, counts, strict=True))

    def price(counts):
        return model(np.array(counts) / sizes)

    for fraction in (0.35, 0.5, 0.7, 0.9):
        budget = fraction * model(np.ones(3))
        found = allocated_counts(graph, model, losses, 1, fits_within(model, graph, budget))
        assert found is not None
        counts = tuple(found[name] for name in names)
        assert price(counts) <= budget
        # At what it costs, nothing loses less.
        best = min(loss(other) for other in every if price(other) <= price(counts) + 1e-12)
        assert loss(counts) == pytest.approx(best, abs=1e-12)
        # And one more unit anywhere on its path would exceed the budget, or nearly so.
        least = min(loss(other) for other in every if price(other) <= budget)
        steps = [losses[name][n] - losses[name][min(n + 1, size)]
                 for name, n, size in zip(names, counts, sizes, strict=True)]  # fmt: skip
        assert loss(counts) - least <= max(steps) + 1e-12


@pytest.mark.parametrize("seed", range(6))
def test_allocation_beats_uniform_widths_on_chains(seed):
    rng = np.random.default_rng(seed)
    graph = graph_of(24, 32, 16, 24)
    names = list(graph.groups)
    model = random_model(rng, names)
    losses = {name: convex(rng, graph.groups[name].units) * rng.choice([0.01, 1.0, 10.0])
              for name in names}  # fmt: skip
    budget = 0.5 * model(np.ones(4))
    fits = fits_within(model, graph, budget)
    ours = allocated_counts(graph, model, losses, 1, fits)
    even = uniform_counts(graph, names, 1, fits)
    assert fits(ours)
    assert sum(losses[n][ours[n]] for n in names) < sum(losses[n][even[n]] for n in names)


def test_savings_are_those_at_the_current_widths():
    """A layer behind one that has shrunk has less to give: here that decides the second step."""
    graph = graph_of(4, 2)
    # cost = 10 x0 x1 + x0 + 4 x1
    slope = np.zeros((2, 3, 2))
    slope[0, 0, 0] = slope[1, 0, 1] = slope[0, 1, 0] = slope[0, 2, 1] = 1.0
    model = CostModel(("g0", "g1"), 0.0, np.array([10.0, 1.0, 4.0]), 1 - slope.sum(axis=2), slope)
    assert model(np.array([0.75, 1.0])) == pytest.approx(12.25)
    assert model.slopes(np.array([0.75, 1.0])) == pytest.approx([11, 11.5])
    losses = {"g0": np.array([99.0, 50.0, 3.125, 0.1, 0.0]), "g1": np.array([99.0, 7.0, 0.0])}
    # First 2.75 for 0.1; then 2.75 for 3.025 against 5.75 (at full width it was 7) for 7.
    found = allocated_counts(graph, model, losses, 1, fits_within(model, graph, 12.0))
    assert found == {"g0": 2, "g1": 2}


def test_a_dear_width_between_two_cheap_ones_is_no_obstacle():
    graph = graph_of(4, 4)
    slope = np.zeros((2, 2, 2))
    slope[0] = np.eye(2)
    model = CostModel(("g0", "g1"), 0.0, np.ones(2), 1 - slope.sum(axis=2), slope)
    losses = {
        "g0": np.array([9.0, 0.2, 0.15, 8.0, 0.0]),  # with 3 kept it stumbles, 2 are fine
        "g1": np.array([9.0, 3.0, 2.0, 1.0, 0.0]),
    }
    found = allocated_counts(graph, model, losses, 1, fits_within(model, graph, 1.5))
    assert found == {"g0": 2, "g1": 4}


@pytest.mark.parametrize("seed", range(4))
def test_rounding_is_respected(seed):
    rng = np.random.default_rng(seed)
    graph = graph_of(24, 20, 6, 32, filters=[24, 20, 6, 64])  # 6 has no multiple of 8
    names = list(graph.groups)
    model = random_model(rng, names)
    losses = {name: convex(rng, graph.groups[name].units) for name in names}
    fits = fits_within(model, graph, 0.6 * model(np.ones(4)))
    for counts in (allocated_counts(graph, model, losses, 8, fits),
                   uniform_counts(graph, names, 8, fits)):  # fmt: skip
        assert fits(counts)
        assert counts["g2"] == 6
        assert counts["g0"] in (8, 16, 24)
        assert counts["g1"] in (8, 16, 20)  # 20 is what it has
        assert 2 * counts["g3"] % 8 == 0  # two filters a unit

"""From a request to widths."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from thinet.base.errors import ThinetError
from thinet.metrics import cost
from thinet.surgery import remove_, shared_copy, trace
from thinet.widths import choose as planning
from thinet.widths.choose import Request, check_cut, choose_counts, choose_groups
from thinet.widths.target import Target, Widths

SHAPE = (3, 8, 8)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    ).eval()  # fmt: skip


@pytest.fixture
def graph(net):
    return trace(net, torch.zeros(1, *SHAPE))


NAMES = ["0", "3", "5"]


def slim_cost(net, graph, counts):
    keep = {name: range(count) for name, count in counts.items()}
    return cost(remove_(shared_copy(net), graph, keep), SHAPE)


def request(text, allocation="uniform", round_to=1, **more):
    return Request(widths=Widths(Target.parse(text), allocation, round_to), **more)


def even_losses(graph):
    return {name: np.linspace(1, 0, graph.groups[name].units + 1) ** 2 for name in NAMES}


@pytest.mark.parametrize("round_to", [1, 4])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["flops", "params"])
@pytest.mark.parametrize("allocation", ["uniform", "error"])
def test_the_cut_network_stays_within_the_budget(net, graph, allocation, kind, fraction, round_to):
    losses = even_losses(graph) if allocation == "error" else None
    asked = request(f"{kind}:{fraction}", allocation, round_to)
    counts = choose_counts(net, graph, NAMES, asked, SHAPE, losses)
    whole, slim = getattr(cost(net, SHAPE), kind), getattr(slim_cost(net, graph, counts), kind)
    assert slim <= fraction * whole * (1 + 1e-9)
    assert all(0 < counts[name] < graph.groups[name].units for name in counts)
    assert all(counts[name] % round_to == 0 for name in counts)
    if round_to == 1:  # and makes use of it
        assert slim > (fraction - 0.1) * whole


def test_losses_decide_who_pays(net, graph):
    losses = even_losses(graph)
    losses["3"] = losses["3"] * 1e-6
    counts = choose_counts(net, graph, NAMES, request("flops:0.5", "error"), SHAPE, losses)
    assert list(counts) == ["3"]  # groups that stay whole are left out
    even = choose_counts(net, graph, NAMES, request("flops:0.5"), SHAPE)
    assert list(even) == NAMES


@pytest.mark.parametrize("allocation", ["uniform", "error"])
@pytest.mark.parametrize("kind", ["flops", "params"])
def test_a_budget_out_of_reach_is_one_sentence(net, graph, kind, allocation):
    losses = even_losses(graph) if allocation == "error" else None
    with pytest.raises(ThinetError, match=rf"target={kind}:0.001 is out of reach: .*{kind}") as one:
        choose_counts(net, graph, NAMES, request(f"{kind}:0.001", allocation), SHAPE, losses)
    assert "\n" not in str(one.value)


def test_a_target_goes_before_a_ratio(net, graph):
    asked = request("flops:0.5", ratio=0.01)
    assert choose_counts(net, graph, NAMES, asked, SHAPE)["0"] > 5


def test_ratios_are_rounded_and_whole_groups_left_out(net, graph):
    asked = Request(ratio={"0": 0.5, "3": 0.9, "5": 1.0}, widths=Widths(round_to=8))
    assert choose_counts(net, graph, NAMES, asked, SHAPE) == {"0": 8}
    with pytest.raises(ThinetError, match="nothing to prune"):
        choose_counts(net, graph, ["0"], Request(ratio=0.9, widths=Widths(round_to=8)), SHAPE)
    with pytest.raises(ThinetError, match="raise the target, round_to=1, or type layers=all"):
        choose_counts(net, graph, ["5"], request("params:0.99", round_to=16), SHAPE)


@pytest.mark.parametrize("allocation", ["uniform", "error"])
@pytest.mark.parametrize(("word", "each"), [("flops", 1), ("macs", 0.5), ("params", 1)])
def test_an_amount_is_met_as_the_fraction_that_it_is(net, graph, word, each, allocation):
    losses = even_losses(graph) if allocation == "error" else None
    kind = "params" if word == "params" else "flops"
    whole = getattr(cost(net, SHAPE), kind)
    amount = request(f"{word}:{0.5 * whole * each / 1e3:.6f}K", allocation)
    as_fraction = request(f"{kind}:0.5", allocation)
    found, same = (choose_counts(net, graph, NAMES, asked, SHAPE, losses)
                   for asked in (amount, as_fraction))  # fmt: skip
    assert found == same
    assert getattr(slim_cost(net, graph, found), kind) <= 0.5 * whole
    much = request(f"{word}:1G", allocation)
    with pytest.raises(ThinetError, match=rf"{word}:1G leaves nothing to save.* full network has"):
        choose_counts(net, graph, NAMES, much, SHAPE, losses)
    little = request(f"{word}:0.01K", allocation)
    with pytest.raises(ThinetError, match=rf"out of reach: .* more than 0.01K {word} would"):
        choose_counts(net, graph, NAMES, little, SHAPE, losses)


# Latency, on a clock of our own.


class Clock:
    """A machine whose time depends on the FLOPs alone."""

    def __init__(self, time_of):
        self.time_of, self.asked = time_of, 0

    def __call__(self, networks, shape, runs=15, batch=1):
        self.asked += 1
        return [self.time_of(cost(one, shape).flops) for one in networks]


def planned(net, graph, monkeypatch, clock, text, losses=None, names=NAMES):
    monkeypatch.setattr(planning, "latencies_ms", clock)
    asked = request(text, "uniform" if losses is None else "error")
    return choose_counts(net, graph, names, asked, SHAPE, losses)


@pytest.mark.parametrize("allocation", ["uniform", "error"])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9])
def test_latency_is_met_with_most_flops(net, graph, monkeypatch, fraction, allocation):
    losses = even_losses(graph) if allocation == "error" else None
    full = cost(net, SHAPE).flops
    clock = Clock(lambda flops: 1.0 + 4.0 * flops / full)  # a fifth is there whatever is cut
    counts = planned(net, graph, monkeypatch, clock, f"latency:{fraction}", losses)
    left = slim_cost(net, graph, counts).flops / full
    assert (1 + 4 * left) / 5 <= fraction
    assert (1 + 4 * left) / 5 > fraction - 0.08  # the widths are coarse: 12 to 24 filters
    assert 0 < clock.asked <= planning.HALVINGS
    as_flops = request(f"flops:{(5 * fraction - 1) / 4:.6f}", "uniform" if not losses else "error")
    assert counts.keys() == choose_counts(net, graph, NAMES, as_flops, SHAPE, losses).keys()


def test_a_latency_that_only_a_small_part_of_the_network_has_to_meet(net, graph, monkeypatch):
    """Half of the FLOPs cannot be reached in one layer, but nine tenths of the time can."""
    full = cost(net, SHAPE).flops
    clock = Clock(lambda flops: flops / full)
    counts = planned(net, graph, monkeypatch, clock, "latency:0.9", names=["5"])
    left = slim_cost(net, graph, counts).flops / full
    assert 0.8 < left <= 0.9


@pytest.mark.parametrize("left", [0.3, 0.6, 0.9])
def test_milliseconds_are_met_with_most_flops(net, graph, monkeypatch, left):
    full = cost(net, SHAPE).flops
    clock = Clock(lambda flops: 1.0 + 4.0 * flops / full)
    as_fraction = planned(net, graph, monkeypatch, clock, f"latency:{left}")
    for text in (f"latency:{5 * left:g}ms", f"latency:{5000 * left:g}us"):
        assert planned(net, graph, monkeypatch, clock, text) == as_fraction
    with pytest.raises(ThinetError, match=r"latency:5ms leaves nothing to save.* has 5ms latency"):
        planned(net, graph, monkeypatch, clock, "latency:5ms")
    with pytest.raises(ThinetError, match=r"latency:1ms is out of reach.* more than 1ms latency "):
        planned(net, graph, monkeypatch, clock, "latency:1ms")


def test_a_latency_out_of_reach(net, graph, monkeypatch):
    with pytest.raises(ThinetError, match=r"target=latency:0.5 is out of reach"):
        planned(net, graph, monkeypatch, Clock(lambda _: 1.0), "latency:0.5")


def test_the_network_that_is_timed_is_the_cut_one_and_the_full_one_stays(net, graph, monkeypatch):
    state = copy.deepcopy(net.state_dict())
    widths = []

    def clock(networks, shape):
        assert networks[0] is net
        widths.append([networks[1][place].out_channels for place in (0, 3, 5)])
        assert networks[1](torch.zeros(1, *shape)).shape == (1, 5)
        return [2.0, 1.0]

    counts = planned(net, graph, monkeypatch, clock, "latency:0.6")
    assert [counts.get(name, graph.groups[name].units) for name in NAMES] == widths[-1]
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name])


# Groups.


class Awkward(nn.Module):
    """A layer that cannot be cut (a size written as a number) beside some that can."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.b(self.a(x).relu()).relu()
        if x.shape[1] != 6:
            raise ValueError("six channels, please")
        return self.head(self.c(x).relu().mean((2, 3)))


def test_groups_that_fail_are_left_whole_and_named():
    net = Awkward()
    images = torch.randn(2, *SHAPE)
    graph = trace(net, images[:1])
    names, skipped = choose_groups(net, graph, Request(layers="inner"), images)
    assert names == ["a", "c"]
    assert "six channels, please" in skipped["b"]
    with pytest.raises(ThinetError, match=r"layer b cannot be pruned: .*six channels"):
        choose_groups(net, graph, Request(layers=["a", "b"]), images)
    with pytest.raises(ThinetError, match="layer b cannot be pruned"):
        choose_groups(net, graph, Request(layers="b"), images)
    names, skipped = choose_groups(net, graph, Request(layers=["a", "[bc]"]), images)
    assert names == ["a", "c"]
    assert "b" in skipped


def test_paper_and_auto(net, graph):
    images = torch.randn(2, *SHAPE)
    for layers in ("paper", "auto"):
        asked = Request(layers=layers, paper=["0", "3"])
        assert choose_groups(net, graph, asked, images)[0] == ["0", "3"]
    assert choose_groups(net, graph, Request(), images)[0] == NAMES


def test_a_plan_is_tried_at_its_very_widths():
    """Six channels pass the trial at a half of twelve, any other number does not."""

    class Six(Awkward):
        def __init__(self):
            super().__init__()
            self.b, self.c = nn.Conv2d(4, 12, 1), nn.Conv2d(12, 4, 1)

        def forward(self, x):
            x = self.b(self.a(x).relu()).relu()
            if x.shape[1] not in (6, 12):
                raise ValueError("six or twelve")
            return self.head(self.c(x).relu().mean((2, 3)))

    net, images = Six(), torch.randn(2, *SHAPE)
    graph = trace(net, images[:1])
    assert choose_groups(net, graph, Request(), images)[0] == ["a", "b", "c"]
    check_cut(net, graph, {"b": 6, "a": 3}, images)
    with pytest.raises(ThinetError, match=r"cannot be cut as planned: .*six or twelve"):
        check_cut(net, graph, {"b": 5, "a": 3}, images)


@pytest.mark.parametrize("allocation", ["uniform", "error"])
@pytest.mark.parametrize("kind", ["flops", "params"])
def test_widths_that_cost_exactly_the_target_are_within_it(net, graph, kind, allocation):
    """Rounding of the cost, which is summed in floating point, must not decide."""
    losses = even_losses(graph) if allocation == "error" else None
    whole = getattr(cost(net, SHAPE), kind)
    for percent in range(10, 100):
        asked = request(f"{kind}:{percent / 100}", allocation)
        counts = choose_counts(net, graph, NAMES, asked, SHAPE, losses)
        exact = getattr(slim_cost(net, graph, counts), kind) / whole
        again = choose_counts(
            net, graph, NAMES, request(f"{kind}:{exact!r}", allocation), SHAPE, losses
        )
        assert again == counts, f"{exact!r} of the {kind}"

"""Channels that go together within one layer: equal parts, shuffles and grouped convolutions.

Pains of the peers' users that are tested here: channel shuffles that raise or that are wrong,
grouped convolutions treated by averaging or not at all, gated units that break in the next forward
pass, mirrored and sliced channels.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.surgery import remove_, settle, shrink, trace, widths


class Parts(nn.Module):
    """The pieces; ``units`` are the entries of ``a`` that go together, ``b`` is free."""

    units = ((0, 4), (1, 5), (2, 6), (3, 7))

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.own()
        self.head = nn.Linear(8, 5)

    def own(self):
        """Further pieces of one network."""

    def out(self, x):
        return self.head(F.gelu(x).mean((2, 3)))


class Halves(Parts):
    def forward(self, x):
        x = F.relu(self.bn(self.a(x)))
        half = x.shape[1] // 2
        return self.out(self.b(torch.cat([x[:, half:], x[:, :half]], 1)))


class GatedUnits(Parts):
    def own(self):
        self.b = nn.Conv2d(4, 8, 1)

    def forward(self, x):
        left, right = self.bn(self.a(x)).chunk(2, 1)
        return self.out(self.b(left * right.sigmoid()))


class GatedRows(Parts):
    """SwiGLU on linear units, whose channels are last."""

    def own(self):
        self.a, self.b = nn.Linear(3, 8), nn.Linear(4, 8)

    def forward(self, x):
        gate, value = self.a(x.movedim(1, -1)).chunk(2, -1)
        return self.out(self.b(F.silu(gate) * value).movedim(-1, 1))


class Quarters(Parts):
    units = ((0, 2, 4, 6), (1, 3, 5, 7))

    def own(self):
        self.b = nn.Conv2d(2, 8, 1)

    def forward(self, x):
        one, two, three, four = self.a(x).tensor_split(4, 1)
        return self.out(self.b((one * two.sigmoid()).relu() - three * four))


class OnePartTransformed(Parts):
    """A unit of ShuffleNetV2: half of the channels pass through, the other half is convolved."""

    units = ((0, 4), (1, 5), (2, 6), (3, 7))

    def own(self):
        self.side = nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, x):
        left, right = F.relu(self.a(x)).chunk(2, dim=1)
        return self.out(self.b(torch.cat([left, F.relu(self.side(right))], 1)))


class Shuffled(Parts):
    def forward(self, x):
        x = F.relu(self.a(x))
        n, c, h, w = x.shape
        return self.out(self.b(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)))


class ShuffledInFour(Parts):
    """The groups of the shuffle tie channels, and the permuted order is what b reads."""

    units = ((0, 2, 4, 6), (1, 3, 5, 7))

    def forward(self, x):
        x = self.bn(self.a(x))
        n, c, h, w = x.shape
        x = x.reshape(n, 4, c // 4, h, w).permute(0, 2, 1, 3, 4).contiguous().view(n, -1, h, w)
        return self.out(self.b(x))


class Mirrored(Parts):
    units = ((0, 7), (1, 6), (2, 5), (3, 4))

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(self.b(x * x.flip(1).sigmoid()))


class ReadInGroups(Parts):
    def own(self):
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.grouped, self.tail = nn.Conv2d(8, 12, 3, groups=2), nn.Linear(12, 5)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(self.b(x)) + self.tail(F.relu(self.grouped(x)).mean((2, 3)))


class MadeInGroups(Parts):
    """The filters of each group shrink alike too, or the groups would not be equal."""

    units = ((0, 2, 4, 6), (1, 3, 5, 7))

    def own(self):
        self.first, self.a = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 8, 3, groups=4, bias=False)

    def forward(self, x):
        return self.out(self.b(F.relu(self.bn(self.a(F.relu(self.first(x)))))))


class TwoGroupings(Parts):
    """Read in groups of two and of four: what goes together is the union of both."""

    units = ((0, 2, 4, 6), (1, 3, 5, 7))

    def own(self):
        self.two, self.four = nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 1, groups=4)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(self.b(F.relu(self.two(x)) * torch.sigmoid(self.four(x))))


class SeveralFiltersAChannel(Parts):
    """A depthwise convolution with a multiplier: both filters go with their channel."""

    units = ((0,), (1,), (2,), (3,), (4,), (5,), (6,), (7,))

    def own(self):
        self.many = nn.Conv2d(8, 16, 3, groups=8, padding=1)
        self.bn2, self.b = nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1)

    def forward(self, x):
        return self.out(self.b(F.relu(self.bn2(self.many(F.relu(self.bn(self.a(x))))))))


@pytest.mark.parametrize("kind", Parts.__subclasses__(), ids=lambda kind: kind.__name__)
def test_parts_shrink_alike(kind, randomise, check_law):
    torch.manual_seed(0)
    net, images = randomise(kind().double()), torch.randn(3, 3, 8, 8).double()
    graph = trace(net, images[:1])
    layer, group = graph.layers["a"], graph.group_of("a")
    found = [tuple(layer.kept([unit])) for unit in range(group.units)]
    assert found == list(kind.units)
    assert group.reason is None
    names = graph.prunable(summed=True)
    for keep in ([0], [1], list(range(1, group.units))):
        slim = check_law(net, graph, {"a": keep}, [images, images[:1]], 1e-10)
        expected = sorted(entry for unit in keep for entry in kind.units[unit])
        assert torch.equal(slim.a.weight, net.a.weight[expected])
    every = {name: [0] for name in names}
    check_law(net, graph, every, [images], 1e-10)
    counts = dict.fromkeys(names, 1)
    assert settle(net, graph, counts, images) == (counts, {})


@pytest.mark.parametrize("steps", [[{"0": [1], "1": [0, 2]}], [{"0": [1]}, {"1": [0, 2]}]])
def test_groups_of_one_input_are_no_depthwise_convolution(steps):
    """A grouped convolution that is down to one input a group keeps its number of groups."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4), nn.Flatten(), nn.Linear(12 * 36, 2)
    )
    graph = trace(net, torch.randn(1, 3, 8, 8))
    assert [graph.groups[name].units for name in ("0", "1")] == [2, 3]
    for keep in steps:
        remove_(net, graph, keep)
        graph = shrink(graph, keep)
    assert (net[1].groups, net[1].in_channels, net[1].out_channels) == (4, 4, 8)
    assert net[1].weight.shape == (8, 1, 3, 3)
    assert net(torch.randn(2, 3, 8, 8)).shape == (2, 2)
    fresh = nn.Conv2d(8, 12, 3, groups=4)  # a network that is loaded is constructed anew
    fresh.weight = net[1].weight
    assert widths(fresh) == {"in_channels": 4, "out_channels": 8, "groups": 4}

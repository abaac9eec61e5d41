"""Targets of several readers of one group, against the activations of both networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thinet.pruning.statistics import (
    PatchMoments,
    Reference,
    Sampling,
    collect,
    shard,
)
from thinet.surgery import trace


@pytest.fixture
def maps():
    return torch.randn(11, 3, 6, 7, generator=torch.Generator().manual_seed(1)).double()


def aimed(net, current, maps, batch=4):
    """The moments of all readers of ``a``, with their targets."""
    group = trace(current, maps[:1]).groups["a"]
    batches, sampling = shard(maps, 0, 1, batch), Sampling(positions=None)
    found = collect(
        current, [group], [PatchMoments], batches, sampling, len(maps), reference=Reference(net)
    )
    return found["a"][PatchMoments].of


def test_the_input_of_a_linear_layer_may_be_overwritten_later(changed, maps):
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(5, 2)

        def forward(self, x):
            x = self.a(x[:, :2, 0, :3].flatten(1)).tanh()
            y = self.b(x)
            x *= 100.0
            return torch.cat([y, self.c(x)], dim=1)

    torch.manual_seed(0)
    net = Mixer().double()
    current = changed(net, "a.weight")
    found = aimed(net, current, maps)["b.weight"]
    with torch.no_grad():
        flat = maps[:, :2, 0, :3].flatten(1)
        x = current.a(flat).tanh()
        d = net.b(net.a(flat).tanh()) - current.b(x)
    torch.testing.assert_close(found.second[0], x.T @ x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.cross[0], x.T @ d, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("twice", [False, True])
def test_layers_that_meet_in_one_sum_share_what_it_misses(changed, twice, maps):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3)
            self.c = self.b if twice else nn.Conv2d(5, 4, 3)

        def forward(self, x):
            x = self.a(x).relu()
            return (self.b(x) + self.c(x.sigmoid())).mean((2, 3))

    torch.manual_seed(0)
    net = Branches().double()
    current = changed(net, "a.weight")
    found = aimed(net, current, maps)
    with torch.no_grad():
        x, y = net.a(maps).relu(), current.a(maps).relu()
        missing = net.b(x) + net.c(x.sigmoid()) - current.b(y) - current.c(y.sigmoid())
    off = missing.sum((0, 2, 3))
    gained = sum(moments.off[0] for moments in found.values())
    torch.testing.assert_close(gained, off, rtol=1e-9, atol=1e-9)


def test_outputs_that_are_rectified_in_place_before_the_pass_ends(changed, maps):
    """Of several readers only the last one's output is seen before anything overwrites it."""

    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (
                nn.Conv2d(size, 5, 3, padding=1) for size in (3, 5, 5, 5)
            )

        def forward(self, x):
            x = self.a(x).tanh()
            y = self.b(x).relu_()
            z = self.c(x)
            z += x
            z.relu_()
            return self.d(x) + y + z

    torch.manual_seed(0)
    net = Three().double()
    current = changed(net, "a.weight")
    found = aimed(net, current, maps)
    with torch.no_grad():
        wanted, seen = net.a(maps).tanh(), current.a(maps).tanh()
        own = net.b(wanted) - net.b(seen)
        joined = net.c(wanted) + wanted - net.c(seen) - seen
    torch.testing.assert_close(found["b.weight"].off[0], own.sum((0, 2, 3)))
    torch.testing.assert_close(found["c.weight"].off[0], joined.sum((0, 2, 3)))

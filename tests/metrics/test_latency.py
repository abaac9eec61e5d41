"""The timing of forward passes, on a clock that the networks themselves advance."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from thinet.metrics.latency import latencies_ms, latency_ms


class Clock:
    now = 0.0


class Sleeper(nn.Module):
    """Advances the clock by the given seconds, pass by pass, and notes how it was called."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.clock, self.seconds, self.seen = clock, list(seconds), []

    def forward(self, x):
        self.seen.append((tuple(x.shape), x.dtype, self.training, torch.is_grad_enabled()))
        self.clock.now += self.seconds.pop(0)
        return x


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


# Three passes to warm up, then an outlier among five.
SECONDS = [9, 9, 9, 0.020, 0.021, 3, 0.022, 0.023]


def test_the_median_of_the_timed_passes_in_milliseconds(clock):
    net = Sleeper(clock, SECONDS).train()
    assert latency_ms(net, (3, 4, 5), runs=5) == pytest.approx(22)
    assert net.seconds == []
    assert set(net.seen) == {((1, 3, 4, 5), torch.float64, False, False)}
    assert net.training


def test_two_networks_take_turns(clock):
    slow, fast = Sleeper(clock, SECONDS).train(), Sleeper(clock, [s / 2 for s in SECONDS]).eval()
    order = []
    for net in (slow, fast):
        net.register_forward_hook(lambda net, *_: order.append(net is slow))
    assert latencies_ms([slow, fast], (3, 4, 5), 5, batch=2) == pytest.approx([22, 11])
    assert order == [True, False] * 8
    assert slow.seen[0][0] == (2, 3, 4, 5)
    assert (slow.training, fast.training) == (True, False)

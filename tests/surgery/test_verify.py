"""What is compared when zeroing and removing are compared."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.surgery import difference, masked, remove_, trace

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Good(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.bn, self.head = nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x):
        x = F.dropout(self.b(F.relu(self.bn(self.a(x)))), 0.5, self.training)
        return self.head(x.mean((2, 3)))


class Outputs(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_difference_is_relative_to_the_largest_output():
    off = difference(Outputs(lambda x: 10 * x), Outputs(lambda x: 10 * x + 1), IMAGES)
    assert off == pytest.approx(0.1 / float(IMAGES.abs().max()), rel=1e-5)


def test_difference_takes_the_worst_of_several_outputs():
    left = Outputs(lambda x: (100 * x, {"small": x, "index": x.argmax()}, None))
    right = Outputs(lambda x: (100 * x, {"small": 1.5 * x, "index": x.argmax()}, None))
    assert difference(left, right, IMAGES) == pytest.approx(0.5, rel=1e-5)
    nothing = Outputs(lambda x: (100 * x, {"small": x * torch.nan, "index": x.argmax()}, None))
    assert difference(left, nothing, IMAGES) != difference(left, nothing, IMAGES)  # NaN


def test_difference_does_not_broadcast_over_other_shapes():
    with pytest.raises(RuntimeError, match="shape"):
        difference(Outputs(lambda x: x * 0), Outputs(lambda x: x[:1] * 0), IMAGES)


def test_difference_looks_in_eval_mode_and_restores_the_modes():
    net = Good().train()
    assert difference(net, net, IMAGES) == 0  # dropout would not repeat itself
    assert all(module.training for module in net.modules())
    with pytest.raises(RuntimeError):
        difference(net, net, torch.randn(2, 5, 8, 8))
    assert all(module.training for module in net.modules())


def test_difference_needs_something_to_compare():
    with pytest.raises(RuntimeError, match="no tensors"):
        difference(Outputs(lambda x: None), Outputs(lambda x: None), IMAGES)


def test_a_wrong_cut_is_noticed():
    net = Good().eval()
    graph = trace(net, IMAGES[:1])
    right = remove_(Good(), graph, {"a": [0, 1]})
    wrong = remove_(Good(), graph, {"a": [0, 2]})
    assert difference(right, wrong, IMAGES) > 1e-3


def test_masked_is_what_hooks_would_zero():
    """Against an independent way to zero channels: hooks on what the readers take in."""
    net = Good().eval()
    zeroed = masked(net, trace(net, IMAGES[:1]), {"a": [1, 2, 6], "b": [0, 7]})
    for name, kept in (("b", [1, 2, 6]), ("head", [0, 7])):
        mask = torch.zeros(8)
        mask[kept] = 1
        mask = mask.view((8, 1, 1) if name == "b" else (8,))
        net.get_submodule(name).register_forward_pre_hook(
            lambda _module, inputs, mask=mask: inputs[0] * mask
        )
    torch.testing.assert_close(zeroed(IMAGES), net(IMAGES))
    assert zeroed.a.weight is net.a.weight  # nothing else was copied
    assert zeroed.b.weight is not net.b.weight
    assert net.b.weight.count_nonzero() == net.b.weight.numel()

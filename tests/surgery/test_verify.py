"""A plan is tried before anything is cut, and refused in one sentence."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.errors import ThinetError
from thinet.surgery import check_plan, difference, remove_, trace

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.bn, self.head, self.flat = nn.BatchNorm2d(8), nn.Linear(8, 5), nn.Linear(512, 5)

    def out(self, x):
        return self.head(x.mean((2, 3)))


class LiteralView(Parts):
    def forward(self, x):
        return self.flat(F.relu(self.b(self.a(x))).view(-1, 512))


class LiteralReshapeToMap(Parts):
    def forward(self, x):
        return self.out(F.relu(self.a(x)).flatten(1).view(-1, 8, 8, 8))


class LiteralGroups(Parts):
    def forward(self, x):
        weight = self.b.weight[:, :1]
        return self.out(F.conv2d(F.relu(self.a(x)), weight, groups=8)) + self.out(self.a(x))


class Asserts(Parts):
    def forward(self, x):
        x = F.relu(self.a(x))
        assert x.shape[1] == 8
        return self.out(self.b(x))


class RaisesAnything(Parts):
    def forward(self, x):
        x = F.relu(self.a(x))
        if x.shape[1] != 8:
            raise KeyError("width")
        return self.out(self.b(x))


class DividesByTheWidth(Parts):
    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(self.b(x / x.shape[1]))


class LooksAtItsWeights(Parts):
    def forward(self, x):
        return self.out(self.b(F.relu(self.a(x)))) * self.a.weight.abs().sum()


class IsRandom(Parts):
    def forward(self, x):
        return self.out(self.b(F.relu(self.a(x) + torch.randn(1))))


class BranchInTraining(Parts):
    """An auxiliary classifier, which no trace in eval() mode sees."""

    def forward(self, x):
        x = F.relu(self.a(x))
        y = self.out(self.b(x))
        return y + self.flat(x.flatten(1)) if self.training else y


REFUSED = [
    LiteralView, Asserts, RaisesAnything, DividesByTheWidth, LooksAtItsWeights, IsRandom,
    BranchInTraining,
]  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_cannot_be_cut_is_refused_and_left_as_it_was(kind):
    net = kind().train()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    graph = trace(net, IMAGES[:1])
    with pytest.raises(ThinetError, match=r"layers=\[\.\.\.\]"):
        check_plan(net, graph, dict.fromkeys(graph.prunable(), 4), IMAGES)
    assert all(module.training for module in net.modules())
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name])


@pytest.mark.parametrize("kind", [LiteralReshapeToMap, LiteralGroups])
def test_what_would_be_wrong_is_not_offered(kind):
    net = kind()
    graph = trace(net, IMAGES[:1])
    for name in graph.prunable():
        try:
            check_plan(net, graph, {name: 4}, IMAGES)
        except ThinetError:
            continue
        pytest.fail(f"{name} would be cut")


class Good(Parts):
    def forward(self, x):
        return self.out(F.dropout(self.b(F.relu(self.bn(self.a(x)))), 0.5, self.training))


def test_a_good_plan_passes_without_a_trace_of_the_trial():
    net = Good().train()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    before = torch.get_rng_state()
    check_plan(net, trace(net, IMAGES[:1]), {"a": 3, "b": 1}, IMAGES)
    assert torch.equal(torch.get_rng_state(), before)  # dropout drew from a generator of its own
    assert all(module.training for module in net.modules())
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_a_single_image_is_enough():
    net = Good()
    check_plan(net, trace(net, IMAGES[:1]), {"a": 3}, IMAGES[:1])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(value):
    net = Good()
    net.b.weight.data[0, 0, 0, 0] = value
    with pytest.raises(ThinetError, match=r"b\.weight holds values that are not finite"):
        check_plan(net, trace(net, IMAGES[:1]), {"a": 3}, IMAGES)


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

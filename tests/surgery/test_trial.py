"""A plan is tried before anything is cut; what fails is left whole or refused in one sentence.

Pains of the peers' users that are tested here: networks that break in the first forward pass after
pruning, or in train() mode, or silently compute something else.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.base.errors import ThinetError
from thinet.surgery import check_weights, settle, shared_copy, trace, try_cut

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Parts(nn.Module):
    """What a makes is used in some impossible way; b and its head are sound."""

    reason = "sizes written as numbers"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.bn, self.head, self.flat = nn.BatchNorm2d(8), nn.Linear(8, 5), nn.Linear(512, 5)

    def out(self, x):
        return self.head(F.relu(self.b(x)).mean((2, 3)))


class LiteralView(Parts):
    def forward(self, x):
        x = F.relu(self.a(x))
        return self.flat(x.view(-1, 512)) + self.out(x)


class LiteralReshapeToMap(Parts):
    def forward(self, x):
        return self.out(F.relu(self.a(x)).flatten(2).reshape(-1, 8, 8, 8))


class LiteralSlice(Parts):
    """Slicing up to the old width goes on working, and is no harm."""

    reason = None

    def forward(self, x):
        return self.out(F.relu(self.a(x))[:, :8])


class LiteralHalves(Parts):
    reason = "not understood"

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(torch.cat([x[:, 4:8], x[:, :4]], 1))


class Asserts(Parts):
    def forward(self, x):
        x = F.relu(self.a(x))
        assert x.shape[1] == 8
        return self.out(x)


class RaisesAnything(Parts):
    def forward(self, x):
        x = F.relu(self.a(x))
        if x.shape[1] != 8:
            raise KeyError("width")
        return self.out(x)


class DividesByTheWidth(Parts):
    reason = "not understood"

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(x / x.shape[1])


class LooksAtItsWeights(Parts):
    reason = "not understood"

    def forward(self, x):
        return self.out(F.relu(self.a(x))) * self.a.weight.abs().sum()


class WeightTransposedElsewhere(Parts):
    """An autoencoder with tied weights: its output is as wide as its input."""

    def __init__(self):
        super().__init__()
        self.tied = nn.Linear(8, 6)

    def forward(self, x):
        rows = F.relu(self.a(x)).permute(0, 2, 3, 1) @ self.tied.weight.t()
        return self.out((rows @ self.tied.weight).permute(0, 3, 1, 2))


class BranchInTraining(Parts):
    """An auxiliary classifier, which no trace in eval() mode sees."""

    def forward(self, x):
        x = F.relu(self.a(x))
        y = self.out(x)
        return y + self.flat(x.flatten(1)) if self.training else y


FAULTY = [kind for kind in Parts.__subclasses__() if kind.reason]


@pytest.mark.parametrize("kind", FAULTY, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("training", [True, False])
def test_what_fails_is_left_whole_and_the_rest_is_pruned(kind, training):
    net = kind().train(training)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    graph = trace(net, IMAGES[:1])
    counts = {name: max(1, graph.groups[name].units // 2) for name in graph.prunable(True)}
    counts.setdefault("b", 4)
    found, faults = settle(net, graph, counts, IMAGES)
    assert found == {"b": 4}
    if "a" in counts:
        assert kind.reason in faults["a"]
        assert "\n" not in faults["a"]
        with pytest.raises(ThinetError, match=r"layer a cannot be pruned: .*leave it out"):
            settle(net, graph, counts, IMAGES, asked=["a"])
        with pytest.raises(ThinetError, match=r"cannot be pruned as planned.*layers=\[\.\.\.\]"):
            settle(net, graph, {"a": counts["a"]}, IMAGES)
    else:
        assert kind is LiteralReshapeToMap
        assert graph.groups["a"].reason is not None
    assert all(module.training == training for module in net.modules())
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_a_slice_up_to_the_old_width_is_no_obstacle():
    net = LiteralSlice()
    assert try_cut(net, trace(net, IMAGES[:1]), {"a": 3, "b": 2}, IMAGES) is None


class IsRandom(Parts):
    def forward(self, x):
        return self.out(F.relu(self.a(x) + torch.randn(1)))


def test_a_network_that_is_never_the_same_is_refused():
    net = IsRandom()
    with pytest.raises(ThinetError, match=r"not understood; prune other layers with layers=\["):
        settle(net, trace(net, IMAGES[:1]), {"a": 4, "b": 4}, IMAGES)


def test_groups_that_only_fail_together_are_refused_together():
    class Both(Parts):
        def __init__(self):
            super().__init__()
            self.c = nn.Conv2d(3, 8, 1)
            self.d = nn.Conv2d(8, 8, 1)

        def forward(self, x):
            x, y = F.relu(self.a(x)), F.relu(self.c(x))
            if x.shape[1] < 8 and y.shape[1] < 8:
                raise ValueError("both")
            return self.out(x) + self.d(y).mean((1, 2, 3))[:, None]

    net = Both()
    graph = trace(net, IMAGES[:1])
    assert try_cut(net, graph, {"a": 4}, IMAGES) is None
    assert try_cut(net, graph, {"c": 4}, IMAGES) is None
    with pytest.raises(ThinetError, match=r"does not run once filters are removed \(both\)"):
        settle(net, graph, {"a": 4, "c": 4}, IMAGES)


class Good(Parts):
    def forward(self, x):
        return self.out(F.dropout(F.relu(self.bn(self.a(x))), 0.5, self.training))


def test_a_good_plan_passes_without_a_trace_of_the_trial():
    net = Good().train()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    before = torch.get_rng_state()
    counts = {"a": 3, "b": 1}
    assert settle(net, trace(net, IMAGES[:1]), counts, IMAGES) == (counts, {})
    assert torch.equal(torch.get_rng_state(), before)  # dropout drew from a generator of its own
    assert all(module.training for module in net.modules())
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_a_single_image_is_enough():
    net = Good()
    assert try_cut(net, trace(net, IMAGES[:1]), {"a": 3}, IMAGES[:1]) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_does_not_hide_or_feign_a_fault(dtype):
    for kind, fault in ((Good, False), (DividesByTheWidth, True)):
        net = kind().to(dtype)
        images = IMAGES.to(dtype)
        found = try_cut(net, trace(net, images[:1]), {"a": 7}, images)
        assert (found is not None) == fault
        assert next(net.parameters()).dtype == dtype


def test_a_trial_without_data_looks_at_shapes():
    net, images = shared_copy(Asserts(), "meta"), IMAGES.to("meta")
    graph = trace(net, images[:1])
    assert settle(net, graph, {"a": 4, "b": 4}, images)[0] == {"b": 4}


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("tensor", ["b.weight", "a.bias", "bn.running_var"])
def test_weights_that_are_not_finite_are_refused(tensor, value):
    net = Good()
    net.state_dict()[tensor].view(-1)[0] = value
    with pytest.raises(ThinetError, match=rf"{tensor} holds values that are not finite"):
        check_weights(net)


def test_finite_weights_and_integers_pass():
    check_weights(Good())

"""What pruning changes is what a file brings back, or saving refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as hooked_spectral_norm

import thinet
from thinet.artifacts.store import load_state_, named_state, read_state
from thinet.artifacts.tensors import dump_state
from thinet.base.errors import ThinetError

IMAGES = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Scaled(nn.Module):
    """A gain a channel that the constructor computes and ``state_dict`` leaves out."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.register_buffer("gain", torch.linspace(1, 2, 8).view(1, 8, 1, 1), persistent=False)
        self.register_buffer("twice", torch.full((1,), 2.0), persistent=False)
        self.register_buffer("cache", None, persistent=False)
        self.b = nn.Conv2d(8, 6, 3)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        self.cache = x.detach().mean(0, keepdim=True)  # as positions of the last size seen
        x = self.a(x).relu() * self.gain * self.twice
        return self.fc(self.b(x).relu().mean((2, 3)))


def fresh(kind):
    torch.manual_seed(1)
    return kind()


def same(left, right):
    with torch.no_grad():
        return torch.equal(left.eval()(IMAGES), right.eval()(IMAGES))


def test_a_cut_buffer_comes_back_though_it_is_not_persistent(tmp_path):
    result = thinet.prune(fresh(Scaled), [IMAGES])
    assert result.model.gain.shape == (1, 4, 1, 1)
    thinet.save(result, tmp_path / "slim")
    held = read_state(tmp_path / "slim" / "model.safetensors")
    assert torch.equal(held["gain"], result.model.gain)
    assert "twice" not in held  # the constructor makes it, whole
    again = thinet.load(tmp_path / "slim", Scaled())
    assert same(again, result.model)
    # and once more, and after a second cut, with the numbers of the first
    thinet.save(again, tmp_path / "copy")
    assert same(thinet.load(tmp_path / "copy", Scaled()), again)
    twice = thinet.prune(again, [IMAGES])
    thinet.save(twice, tmp_path / "slimmer")
    assert same(thinet.load(tmp_path / "slimmer", Scaled()), twice.model)


def test_so_it_does_in_the_files_of_a_run(tmp_path):
    slim = thinet.prune(fresh(Scaled), [IMAGES]).model
    file = tmp_path / "stage.safetensors"
    file.write_bytes(dump_state(slim))
    back = Scaled()
    load_state_(back, read_state(file))
    assert same(back, slim)
    assert named_state(back).keys() == named_state(slim).keys() == slim.state_dict().keys()


def test_a_trial_leaves_the_network_with_the_buffers_it_had():
    net = fresh(Scaled)
    names = list(net.state_dict())
    thinet.prune(net, [IMAGES])
    assert list(net.state_dict()) == names


def test_a_whole_network_is_saved_as_before(tmp_path):
    net = fresh(Scaled)
    thinet.save(net, tmp_path)
    held = read_state(tmp_path / "model.safetensors")
    assert held.keys() == net.state_dict().keys()
    assert same(thinet.load(tmp_path, Scaled()), net)


class Spectral(nn.Module):
    """Every read of its weights in ``train()`` mode moves the estimate of their norm."""

    def __init__(self, norm):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.b = nn.Conv2d(8, 6, 3)
        self.c = norm(nn.Conv2d(6, 5, 3))
        self.d = norm(nn.ConvTranspose2d(5, 5, 3))
        self.fc = norm(nn.Linear(5, 4))

    def forward(self, x):
        x = self.c(self.b(self.a(x).relu()).relu()).relu()
        return self.fc(self.d(x).relu().mean((2, 3)))


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, hooked_spectral_norm])
@pytest.mark.parametrize("training", [True, False])
def test_reading_a_spectral_norm_changes_nothing(norm, training, tmp_path):
    net = fresh(lambda: Spectral(norm)).train(training)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    result = thinet.prune(net, [IMAGES], layers=["a"])
    result.model.train(training)
    slim = {name: tensor.clone() for name, tensor in result.model.state_dict().items()}
    thinet.save(result, tmp_path)
    thinet.cost(result.model, (3, 12, 12))
    again = thinet.load(tmp_path, fresh(lambda: Spectral(norm)).train(training))
    for wanted, found in [
        (before, net.state_dict()), (slim, result.model.state_dict()), (slim, again.state_dict()),
    ]:  # fmt: skip
        assert wanted.keys() == found.keys()
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert same(again, copy.deepcopy(result.model))


class Extra(nn.Module):
    """A layer with state that is no tensor."""

    def __init__(self, state):
        super().__init__()
        self.state = state
        self.conv = nn.Conv2d(3, 6, 3)

    def forward(self, x):
        return self.conv(x) * self.state["gain"]

    def get_extra_state(self):
        return self.state or None

    def set_extra_state(self, state):
        self.state = state


def test_state_beside_tensors_is_refused_by_name(tmp_path):
    net = nn.Sequential(Extra({"gain": 2.0}), nn.ReLU(), nn.Conv2d(6, 4, 3))
    result = thinet.prune(net, [IMAGES])
    for one in (result, net):
        with pytest.raises(ThinetError, match=r"0 \(Extra\) has state beside its tensors"):
            thinet.save(one, tmp_path / "x")
    assert not (tmp_path / "x").exists()


class Quiet(Extra):
    def forward(self, x):
        return self.conv(x)


def test_no_extra_state_is_no_reason(tmp_path):
    net = nn.Sequential(Quiet({}), nn.ReLU(), nn.Conv2d(6, 4, 3))
    thinet.save(net, tmp_path)
    twin = nn.Sequential(Quiet({}), nn.ReLU(), nn.Conv2d(6, 4, 3))
    assert same(thinet.load(tmp_path, twin), net)


class Aliased(nn.Module):
    """Holds a weight twice: in its layer, and in a list that nobody knows."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 4)
        self.heads = [self.fc.weight]

    def forward(self, x):
        return self.a(x).relu().mean((2, 3)) @ self.heads[0].T


def test_weights_that_a_load_cannot_reach_are_refused(tmp_path):
    spec = thinet.artifacts.store.Spec(input_shape=(3, 12, 12))
    with pytest.raises(ThinetError, match="would not be the same after"):
        thinet.save(fresh(Aliased), tmp_path / "x", spec)
    assert not (tmp_path / "x").exists()


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3)

    def forward(self, x):
        return self.a(x) + torch.randn(1)


def test_saving_tries_only_what_can_be_tried_and_draws_nothing(tmp_path):
    spec = thinet.artifacts.store.Spec(input_shape=(3, 12, 12))
    for number, net in enumerate([Noisy(), nn.Conv2d(4, 2, 1), nn.Embedding(3, 2)]):
        state = torch.get_rng_state()
        thinet.save(net, tmp_path / str(number), spec)
        assert torch.equal(torch.get_rng_state(), state)


class Viewed(nn.Module):
    """Two parameters in one piece of memory."""

    def __init__(self):
        super().__init__()
        both = torch.randn(8, 3, 3, 3)
        self.a, self.b = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(3, 4, 3, bias=False)
        self.a.weight, self.b.weight = nn.Parameter(both[:4]), nn.Parameter(both[4:])
        self.c = nn.Conv2d(3, 4, 3, bias=False)
        self.c.weight.data = self.a.weight.data

    def forward(self, x):
        return self.a(x) + self.b(x).square() + self.c(x)


def test_parameters_that_share_memory_come_back(tmp_path):
    net = fresh(Viewed)
    thinet.save(net, tmp_path, thinet.artifacts.store.Spec(input_shape=(3, 12, 12)))
    assert same(thinet.load(tmp_path, Viewed()), net)

"""thinet.synthesize: images that pruning can be calibrated on, and nothing else changed."""

from __future__ import annotations

import copy
import random
import warnings

import pytest
import torch
from torch import Tensor, nn

import thinet
from thinet.base.errors import ThinetError
from thinet.synthesis.settings import Losses

QUICK = {"iterations": 3, "batch_size": 8, "width": 4, "latent": 5}
CLASSES = 4


class Net(nn.Module):
    """Two convolutions with BatchNorm, dropout and a classifier."""

    def __init__(self, channels: int = 3, classes: int = CLASSES) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(5, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


def make(**arguments) -> Net:
    torch.manual_seed(0)
    net = Net(**arguments)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return net


def plain(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, CLASSES),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("size", "shape"), [(8, (3, 8, 8)), ((1, 9, 11), (1, 9, 11)), ([4, 6, 5], (4, 6, 5))]
)
def test_shapes_of_any_kind_and_more_images_than_a_batch(size, shape):
    found = thinet.synthesize(make(channels=shape[0]), 19, size, **QUICK)
    assert found.shape == (19, *shape)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    # normalised over each whole batch; of the last one there is a part
    whole = found[:16].reshape(2, 8, shape[0], -1).transpose(1, 2).flatten(2)
    assert torch.allclose(whole.mean(2), torch.zeros(()), atol=1e-4)
    assert torch.allclose(whole.std(2), torch.ones(()), atol=0.05)
    assert not any(torch.equal(found[0], other) for other in found[1:])


def test_prune_takes_them_and_the_network_stays_as_it_was():
    net = make().train()
    net.body[1].eval()
    net.body[0].weight.requires_grad_(False)
    net.head[3].weight.grad = torch.ones_like(net.head[3].weight)
    state, modes = copy.deepcopy(net.state_dict()), [one.training for one in net.modules()]
    needs = [one.requires_grad for one in net.parameters()]
    torch.manual_seed(7)
    random.seed(7)
    before = torch.get_rng_state(), random.getstate()
    images = thinet.synthesize(net, 12, 8, **QUICK)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert [one.training for one in net.modules()] == modes
    assert [one.requires_grad for one in net.parameters()] == needs
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in net.modules())
    grads = {name: one.grad for name, one in net.named_parameters()}
    assert torch.equal(grads.pop("head.3.weight"), torch.ones(CLASSES, 5))
    assert all(one is None for one in grads.values())
    assert not images.requires_grad
    slim = thinet.prune(net, [images], 0.5, reconstruction="refit").model
    assert slim.body[0].out_channels == 3


def test_the_network_is_left_alone_after_an_error_too():
    net = make().train()
    with pytest.raises(ThinetError, match="smaller lr"):
        thinet.synthesize(net, 4, 8, **QUICK | {"lr": 1e30, "iterations": 10})
    assert net.training
    assert all(one.requires_grad for one in net.parameters())


def test_the_same_seed_draws_the_same_in_any_mode_and_within_no_grad():
    first = thinet.synthesize(make(), 6, 8, **QUICK)
    torch.manual_seed(123)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        again = thinet.synthesize(make().eval(), 6, 8, **QUICK)
    net = make()
    with torch.inference_mode():
        third = thinet.synthesize(net, 6, 8, **QUICK)
    assert torch.equal(first, again)
    assert torch.equal(first, third)
    assert not torch.equal(first, thinet.synthesize(make(), 6, 8, seed=1, **QUICK))
    assert torch.equal(first[:2], thinet.synthesize(make(), 2, 8, **QUICK)), "not of n"


def test_training_brings_the_statistics_nearer_than_noise_is():
    net, random = make(), torch.Generator().manual_seed(1)
    own = nn.functional.interpolate(torch.randn(256, 3, 2, 2, generator=random), scale_factor=4.0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    net.train()(own)
    net.eval()

    @torch.no_grad()
    def apart(images: Tensor) -> float:
        seen, norm = net.body[:4](images), net.body[4]
        means = (seen.mean((0, 2, 3)) - norm.running_mean).norm()
        return float(means + (seen.var((0, 2, 3)) - norm.running_var).norm())

    images = thinet.synthesize(net, 64, 8, iterations=40, batch_size=64, width=8, latent=16)
    assert apart(images) < 0.5 * apart(torch.randn(64, 3, 8, 8, generator=random))
    other = {"losses": {"batchnorm": 0.0}, "iterations": 40, "batch_size": 64}
    assert apart(images) < 0.5 * apart(thinet.synthesize(net, 64, 8, width=8, latent=16, **other))


def test_networks_without_batchnorm_or_a_feature_are_judged_by_the_rest():
    class Product(nn.Module):
        """Logits that come from no single layer."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = plain(), plain()

        def forward(self, images: Tensor) -> Tensor:
            return self.first(images) * self.second(images)

    for net in (plain(), Product()):
        assert thinet.synthesize(net, 4, 8, **QUICK).isfinite().all()
    with pytest.raises(ThinetError, match=r'losses=\{"activation": 0\}'):
        thinet.synthesize(Product(), 4, 8, losses={"activation": 1.0}, **QUICK)
    with pytest.raises(ThinetError, match=r'has none: pass losses=\{"batchnorm": 0\}'):
        thinet.synthesize(plain(), 4, 8, losses={"batchnorm": 1.0}, **QUICK)


def test_losses_are_those_that_are_asked_for():
    net = make()
    usual = thinet.synthesize(net, 6, 8, **QUICK)
    same = thinet.synthesize(net, 6, 8, losses=Losses(batchnorm=1.0), **QUICK)
    assert torch.equal(usual, same)
    assert torch.equal(usual, thinet.synthesize(net, 6, 8, losses={"one_hot": 1.0}, **QUICK))
    other = thinet.synthesize(net, 6, 8, losses={"batchnorm": 0.0}, **QUICK)
    assert not torch.equal(usual, other)


def test_double_precision_and_progress(capsys):
    found = thinet.synthesize(make().double(), 4, 8, progress=True, **QUICK)
    assert found.dtype == torch.float64
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("synthesize: 3 of 3 iterations, loss ")
    thinet.synthesize(make(), 4, 8, **QUICK)
    assert capsys.readouterr() == ("", "")


def test_a_pretended_gpu_draws_what_the_cpu_draws(gpu):
    net = make()
    expected = thinet.synthesize(net, 6, 8, **QUICK)
    found = thinet.synthesize(copy.deepcopy(net).to(gpu), 6, 8, **QUICK)
    assert found.device.type == "cuda"
    assert torch.allclose(found.cpu(), expected, atol=1e-3)  # other kernels, and Adam


BAD = {
    "n": [0, -1, 1.5, None, "3", True],
    "image_size": [0, -3, None, "32", (3, 8), (3, 8, 0), (3, 8.5, 8), 8.0],
    "iterations": [0, None, 1.5],
    "batch_size": [1, 0, None, "8", 3],  # three for four classes
    "lr": [0, -1, float("nan"), None, "x"],
    "latent": [0, None], "width": [1, None], "seed": [-1, None, 0.5], "progress": [1, None, "yes"],
    "losses": [
        3, "batchnorm", {"batchnorms": 1}, {"batchnorm": -1}, {"batchnorm": "x"}, {"base": 1},
        {"adversarial": 1.0}, {"one_hot": 0, "entropy": 0, "activation": 0, "batchnorm": 0},
        {"feature": "nothing"}, {1: 2},
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_sense_is_one_sentence(name):
    for value in BAD[name]:
        given = {"n": 4, "image_size": 8, **QUICK, name: value}
        with pytest.raises(ThinetError) as caught:
            thinet.synthesize(make(), **given)
        text = str(caught.value)
        assert "\n" not in text, value
        assert text.endswith("."), value
        assert len(text) < 500, value
    if name == "batch_size":
        assert "batch_size=8" in text, "the number it needs"


class NoLogits(nn.Module):
    """Gives a map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


@pytest.mark.parametrize(
    ("net", "match"),
    [
        (None, "network"),
        (nn.ReLU(), "no parameters"),
        (NoLogits(), "logits"),
        (make(channels=1), "does not run"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 4)), "does not run"),
    ],
)
def test_networks_that_cannot_be_asked(net, match):
    with pytest.raises(ThinetError, match=match) as caught:
        thinet.synthesize(net, 4, 8, **QUICK)
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_numbers_or_cannot_be_trained_through():
    net = make()
    net.body[0].weight.data[0] = float("nan")
    with pytest.raises(ThinetError, match="NaN"):
        thinet.synthesize(net, 4, 8, **QUICK)
    with torch.inference_mode():
        made = make()
    with pytest.raises(ThinetError, match="inference_mode"):
        thinet.synthesize(made, 4, 8, **QUICK)


class Sure(nn.Module):
    """Sees the first class in everything."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        nn.init.constant_(self.linear.bias, 0.0)
        self.linear.bias.data[0] = 100.0

    def forward(self, images):
        return self.linear(images.mean(dim=(2, 3)))


def test_images_of_one_class_alone_are_warned_of():
    asked = {"iterations": 1, "batch_size": 8, "width": 2, "latent": 3}
    with pytest.warns(UserWarning, match=r"all of one class \(0\)") as told:
        thinet.synthesize(Sure(), 16, 4, **asked)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thinet.synthesize(Sure(), 8, 4, **asked)  # so few are easily of one class


def test_layers_without_a_run_have_no_statistics():
    class Idle(Sure):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

    with pytest.raises(ThinetError, match=r"no BatchNorm layer of the network runs in eval\(\)"):
        thinet.synthesize(Idle(), 8, 4, iterations=1, batch_size=8, width=2, latent=3)

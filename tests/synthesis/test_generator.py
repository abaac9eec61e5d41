"""What a generator draws: sizes, counts, and that images come normalised."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thinet.synthesis.batchnorm import BatchStatistics2d
from thinet.synthesis.generator import Generator


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("shape", "latent", "expected"), [((1, 32, 32), 100, 1049985), ((3, 32, 32), 1000, 8423939)]
)
def test_it_is_as_large_as_the_papers(shape, latent, expected):
    with torch.device("meta"):
        network = Generator(shape, latent)
    assert count(network) == expected
    assert not dict(network.named_buffers()), "statistics would be kept"


def test_the_first_layer_of_the_papers_celeba():
    with torch.device("meta"):
        assert Generator((3, 224, 224), 100).project[0].weight.numel() == 100 * 128 * 56 * 56


@pytest.mark.parametrize(
    "shape",
    [(1, 28, 28), (3, 8, 8), (3, 30, 30), (3, 32, 20), (2, 9, 13), (3, 3, 1), (3, 224, 224)],
    ids=str,
)
def test_images_of_any_size_come_normalised(shape):
    torch.manual_seed(0)
    network = Generator(shape, latent=6, width=4)
    noise = torch.randn(4 if shape[1] == 224 else 64, 6)
    images = network(noise)
    assert images.shape == (len(noise), *shape)
    variance, mean = torch.var_mean(images, (0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(shape[0]), rtol=0, atol=1e-4)
    torch.testing.assert_close(variance, torch.ones(shape[0]), rtol=0, atol=0.05)
    assert torch.equal(network.eval()(noise), images), "it never draws otherwise"
    assert images[0].sub(images[1]).abs().max() > 1e-3


def test_one_colour_is_repeated():
    torch.manual_seed(0)
    network = Generator((3, 8, 8), latent=6, width=4, colours=1)
    images = network(torch.randn(5, 6))
    assert images.shape == (5, 3, 8, 8)
    assert torch.equal(images[:, 0], images[:, 2])
    images.square().mul(torch.rand(5, 3, 8, 8)).sum().backward()
    assert all(bool(p.grad.any()) for name, p in network.named_parameters() if "draw" in name)
    assert count(Generator((3, 8, 8), width=4)) - count(network) > 2 * (2 * 9)


def by_hand(network: Generator, noise: Tensor) -> Tensor:
    """The layers of the fact sheet, one by one, for sides of 12 and 20 pixels."""
    w = {name: tensor.detach() for name, tensor in network.state_dict().items()}

    def normalise(x, name, eps):
        mean = x.mean((0, 2, 3), keepdim=True)
        x = (x - mean) / ((x - mean).square().mean((0, 2, 3), keepdim=True) + eps).sqrt()
        if name is None:
            return x
        return x * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def twice(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def convolve(x, name):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)

    def leaky(x):
        return torch.where(x > 0, x, 0.2 * x)

    x = (noise @ w["project.0.weight"].T + w["project.0.bias"]).view(-1, 6, 3, 5)
    x = normalise(x, "project.2", 1e-5)
    x = leaky(normalise(convolve(twice(x), "draw.1"), "draw.2", 0.8))
    x = leaky(normalise(convolve(twice(x), "draw.5"), "draw.6", 0.8))
    return normalise(convolve(x, "draw.8").tanh(), None, 1e-5)


def test_layer_by_layer():
    torch.manual_seed(0)
    network = Generator((3, 12, 20), latent=6, width=6).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    noise = torch.randn(7, 6, dtype=torch.float64)
    torch.testing.assert_close(network(noise), by_hand(network, noise), rtol=1e-9, atol=1e-9)


def test_what_is_cut_off_lies_around_the_middle():
    """Ten of twelve rows and thirteen of sixteen columns."""
    torch.manual_seed(0)
    network = Generator((3, 10, 13), latent=6, width=4)
    noise = torch.randn(4, 6)
    drawn = network.draw(network.project(noise))
    assert drawn.shape == (4, 3, 12, 16)
    whole = F.batch_norm(drawn[:, :, 1:11, 1:14], None, None, training=True)
    torch.testing.assert_close(network(noise), whole)


def test_no_statistics_from_elsewhere():
    """Another batch in between changes nothing."""
    torch.manual_seed(0)
    layer = BatchStatistics2d(2)
    images, others = torch.randn(6, 2, 3, 3), 5 + torch.randn(6, 2, 3, 3)
    before = layer(images)
    layer(others)
    assert torch.equal(layer.eval()(images), before)
    torch.testing.assert_close(before, F.batch_norm(images, None, None, training=True))
    assert torch.equal(copy.deepcopy(layer)(images), before)


@pytest.mark.parametrize(
    "given",
    [
        {"shape": (3, 0, 8)}, {"latent": 0}, {"width": 1}, {"colours": 2}, {"colours": 4},
        {"shape": (1, 8, 8), "colours": 3},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_made(given):
    with pytest.raises(ValueError, match="shape="):
        Generator(**{"shape": (3, 8, 8), **given})

"""LeNet-5 and the linear networks against the paper's sizes and a loop by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.models.test_builders import build_configured
from thinet.base.errors import ThinetError
from thinet.models.features import find_feature
from thinet.models.lenet import hinton_net, lenet5
from thinet.surgery import trace
from thinet.widths.resolve import resolve_layers

# Chen et al. 2019, table 1: about 62 K and 16 K parameters, 2.39 M and 1.28 M weights.
SIZES = {"lenet5": 61_706, "lenet5_half": 15_738, "hinton_net": 2_395_210,
         "hinton_net_half": 1_276_810}  # fmt: skip


def pictures(size: int) -> torch.Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SIZES)
def test_it_has_the_published_number_of_parameters(name):
    size = 32 if "lenet" in name else 28
    network = build_configured(name, 10, size, "meta")
    assert sum(one.numel() for one in network.parameters()) == SIZES[name]


def test_lenet_computes_what_the_paper_draws():
    network, images = build_configured("lenet5", 10, 32).double(), pictures(32).double()
    weights = iter(network.state_dict().values())
    x = (images[:, :1] + images[:, 1:2] + images[:, 2:]) / 3
    for pools in (True, True, False):
        x = F.conv2d(x, next(weights), next(weights)).clamp(min=0)
        x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)) if pools else x
    assert x.shape == (3, 120, 1, 1)
    x = (x.view(3, 120) @ next(weights).T + next(weights)).clamp(min=0)
    torch.testing.assert_close(network(images), x @ next(weights).T + next(weights))


def test_linear_layers_read_every_pixel():
    network, images = build_configured("hinton_net_half", 10, 28).double(), pictures(28).double()
    weights = iter(network.state_dict().values())
    x = images.sum(1).reshape(3, 784) / 3
    for _ in range(2):
        x = (x @ next(weights).T + next(weights)).clamp(min=0)
    torch.testing.assert_close(network(images), x @ next(weights).T + next(weights))


@pytest.mark.parametrize(
    ("name", "module", "length"),
    [("lenet5", None, 84), ("lenet5", "fc1", 120), ("lenet5_half", "fc1", 60),
     ("hinton_net", None, 1200)],
)  # fmt: skip
def test_features(name, module, length):
    size = 32 if "lenet" in name else 28
    network = build_configured(name, 10, size)
    assert find_feature(network, pictures(size), module).length == length


def test_it_can_read_three_channels():
    network = lenet5(10, 32)
    for grey, colours in ((network, lenet5(10, 32, grey=False)),
                          (hinton_net(10, 28), hinton_net(10, 28, grey=False))):  # fmt: skip
        size = 32 if grey is network else 28
        first = pictures(size)
        shifted = first + torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1)  # the same mean
        torch.testing.assert_close(grey(first), grey(shifted))
        assert not torch.allclose(colours(first), colours(shifted), atol=1e-3)


def test_every_layer_but_the_last_can_be_cut():
    for name, size, cut in (("lenet5", 32, 4), ("hinton_net", 28, 2)):
        graph = trace(build_configured(name, 10, size).eval(), pictures(size))
        inner, left = resolve_layers(graph, "inner")
        assert (len(inner), len(left)) == (cut, 1)


def test_other_sides_and_widths_are_refused():
    with pytest.raises(ThinetError, match=r"not 28: type dataset\.image_size=32"):
        lenet5(10, 28)
    with pytest.raises(ThinetError, match=r"not 3: type model\.build\.widths="):
        lenet5(10, 32, widths=(6, 16, 120))

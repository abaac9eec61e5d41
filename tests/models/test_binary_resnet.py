"""ResNets with a shortcut around every convolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import thinet
from thinet.models.binary_resnet import Unit, resnet18_binary, resnet20_binary
from thinet.quantization.planning import plan_conversion


def paths(network, size):
    return [
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (size, size)
    ]


def test_a_unit_adds_its_convolution_to_the_averaged_and_widened_input():
    unit = Unit(4, 6, 2, prelu=False, shift=False).eval()
    x = torch.randn(2, 4, 7, 7)  # an odd size: the last average is over what is there
    norm, conv = unit.norm[0], unit.conv
    norm.running_mean.normal_()
    branch = F.conv2d(norm(x), conv.weight, stride=2, padding=1).relu()
    padded = F.pad(x, (0, 1, 0, 1))
    there = F.pad(torch.ones_like(x), (0, 1, 0, 1))
    mean = F.avg_pool2d(padded, 2) / F.avg_pool2d(there, 2)
    torch.testing.assert_close(unit(x), branch + F.conv2d(mean, unit.downsample[1].weight))


def test_a_unit_that_keeps_the_shape_has_a_plain_shortcut():
    unit = Unit(4, 4, 1, prelu=True, shift=True).eval()
    nn.init.zeros_(unit.conv.weight)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(unit(x), x)


@pytest.mark.parametrize("options", [{}, {"prelu": True, "shift": True}])
def test_every_3x3_convolution_of_a_unit_becomes_binary_and_nothing_else(options):
    for network, count in ((resnet20_binary(10, 32, **options), 18),
                           (resnet18_binary(10, 32, **options), 16)):  # fmt: skip
        conversion = plan_conversion(network, torch.empty(1, 3, 32, 32))
        assert conversion.binary == tuple(one for one in paths(network, 3) if "stem" not in one)
        assert len(conversion.binary) == count
        assert conversion.norms == conversion.removed == ()
        reasons = {one.layer: one.reason for one in conversion.decisions if one.reason}
        assert set(reasons) == {"stem.0", *paths(network, 1), "linear"}
        assert {reasons[one] for one in paths(network, 1)} == {
            "its network wants it in full precision"
        }


def test_what_the_network_wants_in_full_precision_can_be_named():
    network = resnet20_binary(10, 32)
    (first, _) = paths(network, 1)
    conversion = plan_conversion(network, torch.empty(1, 3, 32, 32), [first])
    assert conversion.binary == (first,)
    assert conversion.norms == (first,)  # behind an average


def test_it_learns_in_full_precision():
    torch.manual_seed(0)
    network = resnet20_binary(2, 16, (16, 16), prelu=True, shift=True)
    images, labels = torch.randn(16, 3, 16, 16), torch.arange(16) % 2
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(10):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
    assert loss < 0.2
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_streams_can_be_pruned_before_binarising():
    torch.manual_seed(0)
    network = resnet20_binary(10, 16, (32, 32))
    images = torch.randn(8, 3, 16, 16)
    result = thinet.prune(network, [images], ratio=0.5, layers="all")
    assert result.skipped.keys() == {"linear"}
    assert {one.out_channels for one in result.model.modules() if isinstance(one, nn.Conv2d)} == {
        16
    }
    assert len(plan_conversion(result.model, images).binary) == 12


@pytest.mark.parametrize(("size", "maps"), [(64, 64), (96, 24)])
def test_the_stem_of_resnet18_depends_on_the_image_size(size, maps):
    with torch.device("meta"):
        network = resnet18_binary(10, size)
        assert network.stem(torch.empty(1, 3, size, size)).shape == (1, 64, maps, maps)
        assert network(torch.empty(2, 3, size, size)).shape == (2, 10)

"""VGG in the order of XNOR-Net's blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.base.errors import ThinetError
from thinet.models import build
from thinet.models.binary_vgg import vgg_binary
from thinet.models.shift import Shift
from thinet.quantization.planning import plan_conversion


def kinds(network):
    return [type(module).__name__ for module in network.features]


def test_blocks_are_norm_convolution_pool_activation():
    network = vgg_binary(10, 32, (16, 24))
    start = ["Conv2d"]
    ends = ["BatchNorm2d", "Conv2d", "MaxPool2d", "ReLU"]
    inner = ["BatchNorm2d", "Conv2d", "ReLU"]
    assert kinds(network) == [*start, *ends, *inner, *ends, "BatchNorm2d"]
    widths = [m.out_channels for m in network.features if isinstance(m, nn.Conv2d)]
    assert widths == [16, 16, 24, 24]


def test_options_put_a_shift_after_the_norm_and_one_on_both_sides_of_the_prelu():
    network = vgg_binary(10, 32, (16,), prelu=True, shift=True)
    assert kinds(network) == [
        "Conv2d", "BatchNorm2d", "Shift", "Conv2d", "MaxPool2d", "Sequential", "BatchNorm2d",
    ]  # fmt: skip
    assert [type(one).__name__ for one in network.features[5]] == ["Shift", "PReLU", "Shift"]
    assert network.features[5][1].weight.shape == (16,)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5)])
def test_a_shift_adds_one_number_a_channel(shape):
    shift, x = Shift(3), torch.randn(shape)
    shift.bias.data = torch.tensor([1.0, 2.0, -3.0])
    made = shift(x)
    for channel, by in enumerate((1.0, 2.0, -3.0)):
        torch.testing.assert_close(made[:, channel], x[:, channel] + by)


@pytest.mark.parametrize("options", [{}, {"prelu": True, "shift": True}])
def test_it_learns_in_full_precision_and_needs_no_further_norm(options):
    torch.manual_seed(0)
    network = build(
        "thinet.models.binary_vgg.vgg_binary", num_classes=2, image_size=16, widths=[16, 16],
        **options,
    )  # fmt: skip
    images, labels = torch.randn(16, 3, 16, 16), torch.arange(16) % 2
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(15):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
    assert loss < 0.2
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    convs = [path for path, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    conversion = plan_conversion(network, images)
    assert conversion.binary == tuple(convs[1:])
    assert conversion.norms == conversion.removed == ()


def test_images_too_small_to_pool_are_refused():
    with pytest.raises(ThinetError, match=r"dataset\.image_size=8"):
        vgg_binary(10, 4, (16, 16, 16))

"""Costs against the paper's figures and against counting by hand."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from thinet.base.errors import ThinetError
from thinet.metrics import cost, layer_costs
from thinet.surgery import remove_, trace
from thinet.widths.ratio import kept_count

SHAPE = (3, 224, 224)
PAPER = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21]  # conv1_1 to conv4_3


def vgg16(ratio=None):
    """torchvision's VGG-16 without data, its first ten convolutions cut to ``ratio``."""
    with torch.device("meta"):
        net = torchvision.models.vgg16().eval()
        images = torch.empty(1, *SHAPE)
    if ratio is None:
        return net
    graph = trace(net, images)
    names = [f"features.{place}" for place in PAPER]
    return remove_(
        net, graph, {n: list(range(kept_count(graph.layers[n].filters, ratio))) for n in names}
    )


@pytest.mark.parametrize(
    ("ratio", "billions", "weights"),
    # Luo et al. 2017, Table 1 (30.94 B, 9.58 B); r = 0.4 is the TPAMI network of 6.91 B.
    [(None, "30.94", 138_344_128), (0.5, "9.58", 131_440_480), (0.4, "6.91", 130_503_922)],
)
def test_vgg16_costs_what_the_paper_says(ratio, billions, weights):
    found = cost(vgg16(ratio), SHAPE)
    assert f"{found.flops / 1e9:.2f}" == billions
    assert found.weights == weights
    assert found.macs * 2 == found.flops
    assert found.params > found.weights  # biases


def test_vgg16_at_two_fifths_to_more_digits():
    assert f"{cost(vgg16(0.4), SHAPE).flops / 1e9:.3f}" == "6.909"


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.twice = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        return self.head(self.twice(self.twice(self.deep(x))).mean((2, 3)))


def test_everything_counted_by_hand():
    net, shape = Mixed(), (3, 16, 12)
    found = cost(net, shape)
    conv, deep, twice = 27 * 8 * 8 * 6, 9 * 8 * 6 * 4, 2 * 64 * 6 * 4
    assert found.macs == conv + deep + twice + 40
    assert found.params == (27 * 8 + 8) + 16 + 72 + (64 + 8) + (40 + 5)
    assert found.weights == found.params - 8 - 8 - 5  # all but the biases of convs and linears
    buffers = 8 + 8  # and one int64 counter
    assert found.size_mb == pytest.approx((4 * (found.params + buffers) + 8) / 2**20)
    assert layer_costs(net, shape) == {
        "conv": (2 * conv, 27 * 8 + 8), "deep": (2 * deep, 72), "twice": (2 * twice, 72),
        "head": (80, 45),
    }  # fmt: skip


def test_layers_add_up_to_the_whole():
    net = torchvision.models.resnet18(num_classes=10)
    parts, whole = layer_costs(net, (3, 64, 64)), cost(net, (3, 64, 64))
    assert sum(flops for flops, _ in parts.values()) == whole.flops
    norms = sum(p.numel() for n, p in net.named_parameters() if "bn" in n or "downsample.1" in n)
    assert sum(params for _, params in parts.values()) + norms == whole.params


def test_half_precision_halves_the_size():
    net = Mixed()
    size = cost(net, (3, 16, 12)).size_mb
    assert cost(net.half(), (3, 16, 12)).size_mb == pytest.approx(size / 2, rel=0.01)


def test_the_network_is_left_as_it_was():
    net = Mixed().train()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    cost(net, (3, 16, 12))
    layer_costs(net, (3, 16, 12))
    assert net.training
    assert not net.conv.weight.is_meta
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_a_network_that_makes_tensors_on_the_cpu_is_counted_all_the_same():
    class Canvas(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            canvas = torch.zeros(x.shape, device="cpu")
            canvas[:, :] = x
            return self.conv(canvas + x)

    assert cost(Canvas(), (3, 5, 5)).macs == 3 * 4 * 25


def test_a_bias_that_layers_share_is_left_out_once():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    net[1].bias = net[0].bias
    found = cost(net, (3, 4, 4))
    assert found.params == 3 * 9 + 2 * 3
    assert found.weights == 3 * 9


@pytest.mark.parametrize("shape", [(3, 10**12, 10**12), (4, 8, 8)])
def test_images_that_the_network_does_not_take(shape):
    with pytest.raises(ThinetError, match="does not run on images of shape"):
        cost(nn.Conv2d(3, 4, 3), shape)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_what_runs_in_training_alone_costs_nothing(device):
    """An auxiliary classifier; a network that is being trained is not put out of that mode."""

    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.side = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 7, 1)

        def forward(self, x):
            if device == "cpu":  # it does not run on another one
                x = x + torch.zeros(x.shape, device="cpu")
            x = self.conv(x)
            return (x, self.side(x)) if self.training else x

    net = Auxiliary().train()
    assert cost(net, (3, 5, 5)).macs == 3 * 4 * 25
    assert layer_costs(net, (3, 5, 5))["side"][0] == 0
    assert net.training

"""Costs against the paper's figures and against counting by hand."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
import torchvision
from torch import nn

from thinet.base.errors import ThinetError
from thinet.metrics import DeclaresCost, LayerCost, cost, layer_costs
from thinet.run.result import Measurement
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
    assert (found.binary_ops, found.bits) == (0, 32 * found.params)
    buffers = 8 + 8  # and one int64 counter
    assert found.size_mb == pytest.approx((4 * (found.params + buffers) + 8) / 2**20)
    assert layer_costs(net, shape) == {
        "conv": LayerCost(2 * conv, 27 * 8 + 8), "deep": LayerCost(2 * deep, 72),
        "twice": LayerCost(2 * twice, 72), "head": LayerCost(80, 45),
    }  # fmt: skip


def test_layers_add_up_to_the_whole():
    net = torchvision.models.resnet18(num_classes=10)
    parts, whole = layer_costs(net, (3, 64, 64)), cost(net, (3, 64, 64))
    assert sum(one.flops for one in parts.values()) == whole.flops
    norms = sum(p.numel() for n, p in net.named_parameters() if "bn" in n or "downsample.1" in n)
    assert sum(one.params for one in parts.values()) + norms == whole.params


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
    assert layer_costs(net, (3, 5, 5))["side"].flops == 0
    assert net.training


# -- modules of other kinds


class Binary(nn.Conv2d):
    """A toy: ``order`` convolutions of 1-bit tensors, trained with those of 32 bits."""

    order = 2

    def forward(self, x):
        if self.looks and x.abs().max() < 0:  # as code does that the meta device refuses
            return x
        return sum(self._conv_forward(x, self.weight.sign(), None) for _ in range(self.order))

    def binary_ops(self, input_shape, output_shape):
        return self.order * output_shape[2] * output_shape[3] * self.weight.numel()

    def float_macs(self, input_shape, output_shape):
        return self.order * output_shape[1] * output_shape[2] * output_shape[3]

    def parameter_bits(self):
        return self.weight.numel() + 32 * self.order * self.out_channels


class Half(nn.Module):
    """A float layer, a binary one that is called twice, and a block with one inside."""

    def __init__(self, looks):
        super().__init__()
        Binary.looks = looks
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.binary = Binary(8, 8, 3, padding=1)
        self.block = Block()
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(self.block(x=self.binary(self.binary(self.stem(x)))))


class Block(nn.Module):
    """Declares its own cost; so does the layer inside it, which is then not asked."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = Binary(8, 4, 1, bias=False), nn.Conv2d(4, 8, 1, bias=False)

    def forward(self, x):
        return self.outer(self.inner(x))

    def binary_ops(self, input_shape, output_shape):
        assert (input_shape, output_shape) == ((1, 8, 5, 6), (1, 8, 5, 6))
        return 1000

    def float_macs(self, input_shape, output_shape):
        return 30

    def parameter_bits(self):
        return 7


@pytest.mark.parametrize("looks", [False, True], ids=["meta", "cpu"])
def test_binary_layers_counted_by_hand(looks):
    net, shape = Half(looks), (3, 5, 6)
    assert isinstance(net.binary, DeclaresCost)
    assert not isinstance(net.stem, DeclaresCost)
    found = cost(net, shape)
    stem, weight, pixels = 27 * 8, 72 * 8, 30
    scaling = 2 * (2 * 8 * pixels)  # two calls of two orders
    assert found.macs == stem * pixels + scaling + 30
    assert found.flops == 2 * found.macs
    assert found.binary_ops == 2 * (2 * pixels * weight) + 1000
    assert found.params == stem + (weight + 8) + (32 + 32) + 16
    assert found.weights == found.params - 8
    assert found.bits == 32 * stem + (weight + 32 * 2 * 8) + 7 + 32 * 16
    assert layer_costs(net, shape) == {
        "stem": LayerCost(2 * stem * pixels, stem),
        "binary": LayerCost(2 * scaling, weight + 8, 2 * (2 * pixels * weight)),
        "block": LayerCost(60, 64, 1000),
    }  # fmt: skip
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_bits_are_those_of_each_type():
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False).half(), nn.Conv2d(4, 5, 1, bias=False))
    net[1].weight = nn.Parameter(net[1].weight.half())
    assert cost(net, (3, 2, 2)).bits == 16 * (12 + 20)
    net = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False))
    net[1].weight = net[0].weight
    assert cost(net, (3, 2, 2)).bits == 32 * 9  # one parameter


def test_costs_are_figures_of_a_measurement():
    found = cost(Mixed(), (3, 16, 12))
    figures = Measurement(**asdict(found), top1=0.5).figures()
    assert {name: figures[name] for name in asdict(found)} == asdict(found)

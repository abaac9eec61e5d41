"""Binary layers in OpenVINO compute what they compute in torch."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from thinet.artifacts.openvino.package import has_openvino

if not has_openvino():  # importing it would report that to its vendor
    pytest.skip("openvino is not installed", allow_module_level=True)

from thinet.artifacts.openvino import checking, deployed
from thinet.artifacts.openvino.checking import NEAR
from thinet.artifacts.openvino.conversion import Lowers, converted
from thinet.artifacts.openvino.deployed import Deployed
from thinet.base.errors import ThinetError
from thinet.quantization import lowering, opset
from thinet.quantization.layers import BinaryConv2d, BinaryLinear
from thinet.quantization.packed import packed
from thinet.quantization.residual import sign
from thinet.quantization.settings import Quantizer

WIDTHS = (3, 8, 12, 16, 31, 64, 100, 128, 130)


def settled(network: nn.Module) -> nn.Module:
    """BatchNorms and constant scales as after a training."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.normal_(1, 0.3)
            module.bias.data.normal_()
        if isinstance(module, (BinaryConv2d, BinaryLinear)) and module.constant is not None:
            order = module.quantizer.order
            module.constant.scales.copy_(torch.tensor([0.8, 0.48, 0.27, 0.16])[:order])
    return network.eval()


def convolution(width, filters, order=2, scale="sample", norm=False, **kwargs):
    torch.manual_seed(width * filters)
    own = nn.BatchNorm2d(width) if norm else None
    kwargs = {"kernel_size": 3, "padding": 1} | kwargs
    return settled(BinaryConv2d(Quantizer(order, scale), own, width, filters, **kwargs))


def linear(width, filters, order=2, scale="sample", norm=False):
    torch.manual_seed(width * filters)
    own = nn.BatchNorm1d(width) if norm else None
    return settled(BinaryLinear(Quantizer(order, scale), own, width, filters))


def images(*shape):
    """Three of very different size, with zeros among their values."""
    made = torch.randn(3, *shape) * torch.tensor([1.0, 30.0, 0.02]).view(-1, *[1] * len(shape))
    return torch.where(torch.rand(3, *shape) < 0.1, 0.0, made)


@torch.no_grad()
def assert_equal(layer: nn.Module, x: torch.Tensor, threads: int = 1) -> None:
    """To 1e-5 of the largest output, but where a residual is 0 to within rounding."""
    assert isinstance(layer, Lowers)
    graph = converted(nn.Sequential(layer), tuple(x.shape[1:])).graph
    run = Deployed(graph, tuple(x.shape[1:]), threads)
    made, wanted, slack = run(x), layer(x), layer.rounding(x, NEAR)
    assert made.shape == wanted.shape
    for one, other, own in zip(made, wanted, slack.expand_as(wanted), strict=True):  # an image
        assert ((one - other).abs() - own).max() <= 1e-5 * other.abs().max()
    assert (slack > 0).float().mean() < 0.2, "hardly anything was compared"
    assert run.binary_layers == 1


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("scale", ["sample", "patch", "constant"])
def test_orders_and_scales(order, scale):
    assert_equal(convolution(16, 24, order, scale, bias=order % 2 == 0), images(16, 9, 7), 2)


@pytest.mark.parametrize("width", WIDTHS)
def test_widths(width):
    filters = WIDTHS[WIDTHS.index(width) - 3]
    assert_equal(convolution(width, filters), images(width, 5, 6))
    assert_equal(linear(width, filters), images(width))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"stride": 2},
        {"stride": (2, 1), "kernel_size": (3, 2)},
        {"dilation": 2, "padding": 2},
        {"dilation": 2, "padding": "same"},
        {"kernel_size": 1, "padding": 0},
        {"kernel_size": 5, "stride": 2, "padding": (0, 2)},
        {"padding": "valid"},
        {"padding_mode": "reflect"},
        {"padding_mode": "replicate", "padding": "same", "kernel_size": (3, 5)},
        {"padding_mode": "circular", "stride": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize(("width", "scale"), [(16, "sample"), (5, "patch")])
def test_geometries(kwargs, width, scale):
    assert_equal(convolution(width, 8, 2, scale, **kwargs), images(width, 9, 8))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_padding_that_is_not_even():
    layer = convolution(8, 8, kernel_size=2, padding="same")
    assert_equal(layer, images(8, 5, 6))


@pytest.mark.parametrize("scale", ["sample", "patch", "constant"])
def test_rows(scale):
    assert_equal(linear(12, 20, 3, scale, norm=True), images(7, 12))


@pytest.mark.parametrize("scale", ["sample", "patch"])
def test_norms_and_packed_layers(scale):
    layer = convolution(12, 16, 3, scale, norm=True)
    assert_equal(layer, images(12, 6, 6))
    assert_equal(packed(layer), images(12, 6, 6))
    assert_equal(packed(linear(20, 9, norm=True)), images(20))


def test_a_sweep():
    choose = random.Random(0)
    for _ in range(16):
        kernel = choose.choice([1, 2, 3, (3, 1), (2, 5)])
        mode = choose.choice(["zeros", "zeros", "reflect", "replicate", "circular"])
        layer = convolution(
            choose.choice(WIDTHS), choose.choice(WIDTHS), choose.randint(1, 4),
            choose.choice(["sample", "patch", "constant"]), choose.random() < 0.3,
            kernel_size=kernel, stride=choose.randint(1, 2), dilation=choose.randint(1, 2),
            padding=(choose.randint(0, 2), choose.randint(0, 2)), padding_mode=mode,
            bias=choose.random() < 0.5,
        )  # fmt: skip
        x = images(layer.in_channels, choose.randint(9, 12), choose.randint(9, 12))
        assert_equal(layer, x, choose.randint(1, 2))


def test_undecided_bits_are_those_near_the_threshold():
    """Worked by hand: of 1, 1, 1 and 5 the second residuals are -1, -1, -1 and 3; of 2, 2: 0."""
    layer = linear(4, 2)
    layer.weight.data.fill_(0.5)
    assert layer.rounding(torch.tensor([[1.0, 1.0, 1.0, 5.0]]), NEAR).tolist() == [[0.0, 0.0]]
    undecided = layer.rounding(torch.tensor([[2.0, 2.0, 2.0, -2.0]]), NEAR)
    assert undecided.tolist() == [[8.0, 8.0]]  # four bits, 2 alpha (b_1 + b_2) = 2 each


def network(width=31, scale="sample"):
    """A float layer, a ReLU whose zeros are +1, and two binary layers, of odd widths."""
    torch.manual_seed(0)
    quantizer = Quantizer(2, scale)
    layers = [
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(),
        BinaryConv2d(quantizer, None, width, 16, 3, padding=1),
        BinaryConv2d(quantizer, nn.BatchNorm2d(16), 16, 16, 3, padding=1, stride=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    ]  # fmt: skip
    return settled(nn.Sequential(*layers))


def test_a_network():
    made, given = deployed(network(), (3, 8, 8), 1), torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(made(given), network()(given), rtol=1e-4, atol=1e-5)
    assert made.binary_layers == 2


def big_endian(monkeypatch):
    real = opset.np.packbits
    monkeypatch.setattr(opset.np, "packbits", lambda bits, bitorder: real(bits, bitorder="big"))


def no_filling(monkeypatch):
    monkeypatch.setattr(opset, "BLOCK", 1)


def no_border(monkeypatch):
    monkeypatch.setattr(lowering, "_places", lambda geometry, *_: torch.tensor(9.0))


def no_padding(monkeypatch):
    monkeypatch.setattr(lowering, "_outside", lambda *_: opset.constant(0.0))


def zero_is_negative(monkeypatch):
    monkeypatch.setattr(opset, "_BELOW_ZERO", 0.0)


def another_scale(monkeypatch):
    real = opset.mean_size
    monkeypatch.setattr(
        opset,
        "mean_size",
        lambda x, axes: opset.operations().multiply(real(x, axes), opset.constant(1.001)),
    )


def forgotten_factor(monkeypatch):
    monkeypatch.setattr(lowering, "_finished", lambda layer, total, shape: total)


@pytest.mark.parametrize(
    ("fault", "scale"),
    [
        (big_endian, "sample"),
        (no_filling, "sample"),
        (no_border, "sample"),
        (no_padding, "patch"),
        (zero_is_negative, "sample"),
        (another_scale, "sample"),
        (forgotten_factor, "sample"),
    ],
)
def test_a_fault_of_a_layer_is_seen(fault, scale, monkeypatch):
    fault(monkeypatch)
    with pytest.raises(ThinetError, match=r"^2 differs .*not used"):
        deployed(network(100 if fault is no_filling else 31, scale), (3, 8, 8), 1)


def test_a_fault_in_front_of_a_layer_is_seen():
    changed = network()
    found = converted(changed, (3, 8, 8))
    changed[0].bias.data += 0.01
    with pytest.raises(ThinetError, match="the input of 2 differs"):
        checking.check(changed, found, Deployed(found.graph, (3, 8, 8), 1))


def test_a_fault_behind_the_layers_is_seen():
    changed = network()
    found = converted(changed, (3, 8, 8))
    changed[-1].bias.data += 0.01
    with pytest.raises(ThinetError, match="the logits differ"):
        checking.check(changed, found, Deployed(found.graph, (3, 8, 8), 1))


def test_weights_that_are_not_binary_yet():
    half = network()
    half[2].binary_weights = False
    with pytest.raises(ThinetError, match="not binary yet"):
        deployed(half, (3, 8, 8))


def test_a_norm_that_has_no_statistics():
    odd = network()
    odd[3].norm = nn.BatchNorm2d(16, track_running_stats=False)
    with pytest.raises(ThinetError, match="running statistics"):
        deployed(odd.eval(), (3, 8, 8))


def test_zero_is_positive_whatever_the_processor_makes_of_tiny_numbers():
    layer = convolution(8, 8, 1)
    x = torch.zeros(3, 8, 4, 4)
    x[:, 0, 0, 0] = -1.0
    assert sign(torch.zeros(1)).item() == 1
    assert_equal(layer, x)

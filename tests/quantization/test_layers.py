"""Binary layers against loops over positions, XNOR-Net's map, and torch's own layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.metrics import cost, layer_costs
from thinet.quantization.layers import BinaryConv2d, BinaryLinear, binary_layers
from thinet.quantization.residual import residual_binarize, sign
from thinet.quantization.settings import Quantizer
from thinet.quantization.weights import binarize_weight, filter_scales

GEOMETRIES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
    {"kernel_size": 3, "dilation": 2, "padding": 2, "bias": False},
    {"kernel_size": 3, "padding": "same", "padding_mode": "reflect"},
    {"kernel_size": 1, "stride": 2},
]


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return made * torch.linspace(0.5, 3, len(made), dtype=torch.float64).view(-1, 1, 1, 1)


def convolution(order, scale, geometry, norm=None):
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, **geometry, dtype=torch.float64)
    return plain, BinaryConv2d.like(plain, Quantizer(order, scale), norm).eval()


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_convolution_of_the_quantised_input(order, geometry):
    plain, binary = convolution(order, "sample", geometry)
    x = drawn(3, 3, 7, 6)
    with torch.no_grad():
        made = binary(x)
        for n in range(3):  # whatever else is in the batch
            quantised = residual_binarize(x[n].flatten()[None], order).view(1, 3, 7, 6)
            plain.weight.copy_(binarize_weight(plain.weight))
            torch.testing.assert_close(made[n], plain(quantised)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_algorithm_2_position_by_position(order, geometry):
    """Every patch is cut out and binarised alone; places that are padding add nothing."""
    plain, binary = convolution(order, "patch", geometry)
    x = drawn(2, 3, 7, 6)
    weight, bias = binarize_weight(plain.weight.detach()), plain.bias
    kernel, stride, dilation = plain.kernel_size, plain.stride, plain.dilation
    sides = plain._reversed_padding_repeated_twice
    mode = plain.padding_mode if plain.padding_mode != "zeros" else "constant"
    padded, inside = F.pad(x, sides, mode=mode), F.pad(torch.ones_like(x), sides, mode=mode)
    with torch.no_grad():
        made = binary(x)
    assert made.shape == plain(x).shape
    for h in range(made.shape[2]):
        for w in range(made.shape[3]):
            rows = slice(
                h * stride[0], h * stride[0] + dilation[0] * (kernel[0] - 1) + 1, dilation[0]
            )
            columns = slice(
                w * stride[1], w * stride[1] + dilation[1] * (kernel[1] - 1) + 1, dilation[1]
            )
            patch, there = padded[:, :, rows, columns], inside[:, :, rows, columns]
            quantised = residual_binarize(patch, order) * there  # a patch is an image of its own
            expected = torch.einsum("nchw,ochw->no", quantised, weight)
            expected = expected if bias is None else expected + bias
            torch.testing.assert_close(made[:, :, h, w], expected, rtol=1e-10, atol=1e-12)


def test_order_one_by_patch_is_xnor_nets_map():
    """K = A * k: the mean of |x| over channels, filtered by a box, zero padding counted."""
    plain, binary = convolution(1, "patch", {"kernel_size": 3, "padding": 1, "bias": False})
    x = drawn(2, 3, 7, 6)
    box = torch.full((1, 1, 3, 3), 1 / 9, dtype=torch.float64)
    scales = F.conv2d(x.abs().mean(1, keepdim=True), box, padding=1)
    weight = plain.weight.detach()
    factors = filter_scales(weight).view(1, -1, 1, 1)
    expected = scales * factors * F.conv2d(sign(x), sign(weight), padding=1)
    with torch.no_grad():
        torch.testing.assert_close(binary(x), expected, rtol=1e-10, atol=1e-12)


def test_order_one_with_a_scale_of_one_is_a_network_of_signs():
    plain, binary = convolution(1, "constant", {"kernel_size": 3, "padding": 1, "bias": False})
    x, weight = drawn(2, 3, 7, 6), plain.weight.detach()
    binary.double().constant.scales.fill_(1.0)
    factors = filter_scales(weight).view(1, -1, 1, 1)
    expected = factors * F.conv2d(sign(x), sign(weight), padding=1)
    with torch.no_grad():
        torch.testing.assert_close(binary(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", ["sample", "patch", "constant"])
def test_a_linear_layer(scale):
    torch.manual_seed(0)
    plain = nn.Linear(20, 6, dtype=torch.float64)
    binary = BinaryLinear.like(plain, Quantizer(2, scale), None)
    x = drawn(3, 20, 1, 1).flatten(1)
    axes = {"sample": (1,), "patch": (1,)}.get(scale, (0, 1))
    quantised = torch.zeros_like(x)
    residual = x
    for _ in range(2):
        part = residual.abs().mean(axes, keepdim=True) * sign(residual)
        quantised, residual = quantised + part, residual - part
    weight = binarize_weight(plain.weight)
    torch.testing.assert_close(binary(x), F.linear(quantised, weight, plain.bias))
    tokens = torch.stack([x, 2 * x], 1)
    if scale == "patch":  # every row has its own
        torch.testing.assert_close(binary(tokens)[:, 0], binary(x))
    assert binary(tokens).shape == (3, 2, 6)


def test_constant_scales_run_along_in_training_and_stay_in_evaluation():
    layer = BinaryConv2d.like(nn.Conv2d(2, 3, 3), Quantizer(2, "constant"), None).train()
    first, second = drawn(2, 2, 5, 5).float(), 2 * drawn(2, 2, 5, 5, seed=1).float()
    layer(first)
    begun = layer.constant.scales.clone()
    assert begun[0].item() == pytest.approx(first.abs().mean().item())
    layer(second)
    expected = 0.9 * begun[0] + 0.1 * second.abs().mean()
    assert layer.constant.scales[0].item() == pytest.approx(expected.item())
    layer.eval()
    kept = layer.constant.scales.clone()
    quantised = residual_binarize(second, 2, kept)
    expected = F.conv2d(quantised, binarize_weight(layer.weight), layer.bias)
    torch.testing.assert_close(layer(second), expected)
    assert torch.equal(layer.constant.scales, kept)


def test_batchnorm_comes_right_before_the_quantiser():
    norm = nn.BatchNorm2d(3, dtype=torch.float64)
    norm.running_mean.add_(1.0)
    plain, binary = convolution(2, "sample", GEOMETRIES[0], norm)
    x = drawn(2, 3, 7, 6)
    bare = BinaryConv2d.like(plain, Quantizer(2), None)
    torch.testing.assert_close(binary(x), bare(norm.eval()(x)))
    linear = BinaryLinear.like(nn.Linear(5, 2), Quantizer(2), nn.BatchNorm1d(5)).train()
    linear(torch.randn(4, 7, 5) + 3)
    assert linear.norm.running_mean.mean() > 0.2  # over all rows


def test_they_are_called_like_the_layers_that_they_were():
    _, binary = convolution(1, "sample", GEOMETRIES[0])
    assert torch.equal(binary(input=drawn(1, 3, 7, 6)), binary(drawn(1, 3, 7, 6)))


def test_weights_of_the_first_of_two_steps_are_real():
    plain, binary = convolution(1, "sample", GEOMETRIES[0])
    x = drawn(2, 3, 7, 6)
    binary.binary_weights = False
    torch.testing.assert_close(binary(x), plain(residual_binarize(x, 1)))
    binary(x).sum().backward()
    assert binary.weight.grad.abs().min() > 0


def test_costs_are_counted_apart():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        BinaryConv2d.like(
            nn.Conv2d(8, 16, 3, stride=2, padding=1), Quantizer(2), nn.BatchNorm2d(8)
        ),
        nn.Flatten(),
        BinaryLinear.like(nn.Linear(16 * 16, 10, bias=False), Quantizer(3), None),
    )
    found = cost(network, (3, 8, 8))
    convolution, linear = 16 * 16 * 8 * 9, 2560
    assert found.binary_ops == 2 * convolution + 3 * linear
    assert found.flops == 2 * (64 * 8 * 27 + 3 * 16 * 16 + 4 * 10)
    first, second, third = 32 * (8 * 27 + 8), 16 * 72 + 32 * (16 + 16 + 16), 2560 + 320
    assert found.bits == first + second + third
    assert layer_costs(network, (3, 8, 8))["1"].binary_ops == 2 * convolution
    assert list(binary_layers(network)) == ["1", "3"]


def test_a_step_of_training_reaches_latent_weights_on_a_gpu(gpu):
    layer = BinaryConv2d.like(nn.Conv2d(4, 4, 3), Quantizer(2, "constant"), nn.BatchNorm2d(4))
    layer.to(gpu).train()
    made = layer(torch.randn(2, 4, 6, 6, device=gpu))
    made.sum().backward()
    assert made.device.type == gpu.type
    assert layer.weight.grad.abs().sum() > 0

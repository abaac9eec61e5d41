"""Packed layers compute what the trained ones compute, bit for bit, from an eighth of a byte."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import thinet
from thinet.base.errors import ThinetError
from thinet.engine.objective import Supervised, check_objective
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.metrics import cost
from thinet.quantization.layers import BinaryConv2d, BinaryLinear
from thinet.quantization.packed import PackedConv2d, PackedLinear, packed, packed_layers
from thinet.quantization.quantizer import Quantizer
from thinet.quantization.weights import pack_signs, unpack_bits

SHAPE = (3, 12, 10)


def conv(scale="sample", order=2, norm=True, channels=5, **options):
    """A binary convolution whose statistics are those of a few images."""
    options = {"kernel_size": 3, "padding": 1, **options}
    quantizer = Quantizer(order, scale)
    before = nn.BatchNorm2d(channels) if norm else None
    return BinaryConv2d.like(nn.Conv2d(channels, 7, **options), quantizer, before)


class Net(nn.Module):
    """A layer of each kind, one of them under two names, and rows for the linear one."""

    def __init__(self, scale="sample"):
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3)
        self.conv = conv(scale)
        self.again = self.conv
        self.rows = BinaryLinear.like(nn.Linear(7, 9), Quantizer(3, scale), nn.BatchNorm1d(7))
        self.head = nn.Linear(9, 4)

    def forward(self, images):
        x = self.again(self.stem(images)).flatten(2).transpose(1, 2)
        return self.head(self.rows(x).mean(1))


def trained(network, *shape):
    """Statistics and scales that are no initial ones, a weight of zero, and ``eval()``."""
    torch.manual_seed(1)
    with torch.no_grad():
        for _ in range(2):
            network.train()(torch.randn(4, *shape) * 2 + 0.3)
        for name, tensor in network.named_parameters():
            if name.endswith("weight") and tensor.dim() > 1:
                tensor.view(-1)[0] = 0.0
    return network.eval()


@pytest.fixture
def images():
    return torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("scale", ["sample", "patch", "constant"])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"order": 1, "norm": False, "bias": False, "channels": 8}, {"stride": (2, 1)},
        {"padding": "same", "dilation": 2}, {"padding": (0, 2), "padding_mode": "reflect"},
        {"padding": "same", "padding_mode": "circular"}, {"kernel_size": (1, 4), "padding": 0},
        {"order": 4, "padding_mode": "replicate", "channels": 3},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_convolution_computes_the_same_bits(scale, options, dtype):
    torch.manual_seed(0)
    layer = trained(conv(scale, **options), layer_inputs := options.get("channels", 5), 9, 8)
    layer = layer.to(dtype)
    x = torch.randn(3, layer_inputs, 9, 8, dtype=dtype)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            wanted = layer(x)
            made = packed(copy.deepcopy(layer))
            assert type(made) is PackedConv2d
            assert torch.equal(made.computed_weight(), layer.computed_weight())
            assert torch.equal(made(x), wanted)


@pytest.mark.parametrize("scale", ["sample", "patch", "constant"])
@pytest.mark.parametrize("shape", [(11,), (6, 11), (2, 3, 11)])
def test_a_linear_layer_computes_the_same_bits(scale, shape):
    layer = BinaryLinear.like(nn.Linear(11, 6), Quantizer(2, scale), nn.BatchNorm1d(11))
    trained(layer, *shape)
    x = torch.randn(5, *shape)
    wanted = layer(x)
    made = packed(layer)
    assert type(made) is PackedLinear
    assert torch.equal(made(x), wanted)


@pytest.mark.parametrize("scale", ["sample", "constant"])
def test_a_network_keeps_its_outputs_costs_and_names(scale, images):
    network = trained(Net(scale), *SHAPE)
    with torch.no_grad():
        wanted = network(images)
    before = cost(network, SHAPE)
    made = packed(network)
    assert made is network
    assert made.again is made.conv
    assert list(packed_layers(made)) == ["conv", "rows"]
    with torch.no_grad():
        assert torch.equal(made(images), wanted)
    assert replace(cost(made, SHAPE), size_mb=0) == replace(before, size_mb=0)
    names = {name for name, _ in made.named_parameters()}
    assert not names & {"conv.weight", "rows.weight"}
    assert made.conv.bits.shape == (7, 6)  # 45 weights
    assert not (made.conv.bits[:, -1] >> 5).any()
    assert made.conv.scales.shape == (7,)
    assert "5, 7, kernel_size=(3, 3), stride=(1, 1), order=2" in repr(made)


def test_a_network_is_moved_copied_and_rounded_like_others(images, gpu):
    network = packed(trained(Net(), *SHAPE))
    with torch.no_grad():
        wanted = network(images)
        twin = copy.deepcopy(network)
        twin.conv.bits.zero_()
        assert not torch.equal(twin(images), wanted)
        twin.load_state_dict(network.state_dict())
        assert torch.equal(twin(images), wanted)
        assert torch.equal(twin.to(gpu)(images.to(gpu)).cpu(), wanted)
        assert twin.cpu().conv.bits.dtype == torch.uint8
        half = twin.half()
        assert half.conv.bits.dtype == torch.uint8
        assert half(images.half()).dtype == torch.float16
        torch.testing.assert_close(half(images.half()).float(), wanted, rtol=0.2, atol=0.1)


def test_nothing_is_kept_of_an_unpacked_weight(images):
    network = packed(trained(Net(), *SHAPE))
    before = sorted(vars(network.conv))
    with torch.no_grad():
        network(images)
    assert sorted(vars(network.conv)) == before
    sizes = [one.nbytes for one in (*network.conv.parameters(), *network.conv.buffers())]
    assert max(sizes) < 7 * 45


def test_a_network_without_values_is_packed_to_shapes():
    with torch.device("meta"):
        network = Net("constant")
    packed(network)
    assert network.conv.bits.is_meta
    assert network.conv.bits.shape == (7, 6)


@pytest.mark.parametrize("width", [1, 7, 8, 9, 130])
def test_bits_come_back(width):
    weight = torch.randn(3, width)
    weight[0, 0] = 0.0
    bits = pack_signs(weight)
    assert bits.shape == (3, -(-width // 8))
    assert bits.dtype == torch.uint8
    assert torch.equal(unpack_bits(bits, (3, width)), weight >= 0)
    filled = torch.cat([weight, torch.full((3, -width % 8), -1.0)], 1)
    assert torch.equal(pack_signs(filled), bits), "bits beyond the last weight are 0"


@pytest.mark.parametrize(
    ("break_", "words"),
    [
        (lambda net: setattr(net.conv, "binary_weights", False), "conv still computes with weigh"),
        (lambda net: net.conv.weight.data.view(-1)[3:4].fill_(torch.nan), "conv has weights that"),
        (lambda net: net.rows.weight.data.view(-1)[3:4].fill_(torch.inf), "rows has weights that"),
        (lambda net: packed(net), "has no binary layer to pack"),
    ],
)
def test_what_cannot_be_packed_is_left_alone(break_, words):
    network = trained(Net(), *SHAPE)
    break_(network)
    kinds = [type(one) for one in network.modules()]
    with pytest.raises(ThinetError, match=words) as caught:
        packed(network)
    assert "\n" not in str(caught.value)
    assert [type(one) for one in network.modules()] == kinds


def test_a_packed_network_is_not_trained(images):
    network = packed(trained(Net(), *SHAPE))
    network.train()
    with pytest.raises(ThinetError, match=r"cannot be trained, because its weights are bits"):
        network(images)
    with torch.no_grad():
        network(images)  # statistics may be estimated anew
    objective = Supervised(network, [Phase(1, 0.1)], Training(torch.optim.SGD))
    with pytest.raises(ThinetError, match="conv cannot be trained, because its weights are bits"):
        check_objective(objective)
    inputs = images.clone().requires_grad_()
    network.eval()(inputs).sum().backward()
    assert inputs.grad.abs().sum() > 0, "what lies before learns through it, as from a teacher"


@pytest.mark.parametrize("change", [lambda network: network, packed], ids=["trained", "packed"])
def test_a_binary_network_is_not_pruned(change, images):
    network = change(trained(Net(), *SHAPE))
    words = "conv cannot be pruned, because it is binary.*prune the network first"
    with pytest.raises(ThinetError, match=words) as caught:
        thinet.prune(network, [images], criterion="weight_sum", reconstruction="none")
    assert "\n" not in str(caught.value)

"""Replacing layers, in place and by ``thinet.binarize``."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import thinet
from thinet.artifacts.spec import Builder, Spec
from thinet.base.errors import ThinetError
from thinet.models import build
from thinet.quantization.convert import binarized, conversion_transform, estimate_norms_
from thinet.quantization.layers import BinaryConv2d, BinaryLinear, binary_layers
from thinet.quantization.planning import plan_conversion
from thinet.quantization.settings import Quantizer

BUILDER = Builder(
    "thinet.models.small_vgg.vgg_small", {"num_classes": 5, "image_size": 16, "widths": [16, 24]}
)


class Net(nn.Module):
    """BatchNorm, ReLU, layers behind it, behind a pool, and after nothing."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn, self.relu = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()
        self.pool, self.a = nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1)
        self.b = nn.Linear(16, 24)
        self.head = nn.Linear(24, 5)
        self.same = self.a

    def forward(self, images):
        x = self.pool(self.relu(self.bn(self.stem(images))))
        x = self.same(x).mean((2, 3))
        return self.head(self.b(x))


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(8, 3, 12, 12)


def test_layers_are_replaced_under_all_their_names(images):
    network = Net().eval()
    weights = network.a.weight, network.a.bias
    made = binarized(network, 3, "sample", 1.5, ["a", "b"], ["a"], ["relu"])
    assert made is network
    assert type(made.a) is BinaryConv2d
    assert made.same is made.a
    assert type(made.b) is BinaryLinear
    assert made.a.weight is weights[0]
    assert made.a.bias is weights[1]
    assert made.a.quantizer == Quantizer(3, "sample", 1.5)
    assert type(made.a.norm) is nn.BatchNorm2d
    assert made.a.norm.num_features == 16
    assert made.b.norm is None
    assert type(made.relu) is nn.Identity
    assert not any(module.training for module in made.modules())
    assert made(images).shape == (8, 5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_norms_have_the_precision_and_device_of_the_weights(dtype):
    made = binarized(Net().to(dtype), 2, "sample", 1.0, ["a", "b"], ["a", "b"], [])
    assert {one.dtype for one in made.parameters()} == {dtype}
    assert type(made.b.norm) is nn.BatchNorm1d
    with torch.device("meta"):
        made = binarized(Net(), 2, "constant", 1.0, ["a", "b"], ["a", "b"], [])
    assert all(one.is_meta for one in [*made.parameters(), *made.buffers()])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"binary": ["c"]}, "no layer called 'c'"),
        ({"binary": [""]}, "no layer called ''"),
        ({"binary": "a"}, "binary=a is not a list"),
        ({"binary": [3]}, "is not a list of module paths"),
        ({"binary": ["bn"]}, "bn cannot become binary: BatchNorm2d is no plain"),
        ({"norms": ["b"]}, "norms has b, which is not among"),
        ({"removed": ["pool"]}, "pool is a MaxPool2d and not a ReLU"),
        ({"removed": ["none"]}, "no ReLU called 'none'"),
        ({"order": 0}, "order=0"),
        ({"scale": "tensor"}, "scale=tensor is none of"),
    ],
)
def test_what_a_file_says_is_checked(change, sentence):
    given = {"order": 2, "scale": "sample", "clip": 1.0, "binary": ["a"], "norms": []}
    network = Net()
    with pytest.raises(ThinetError, match=sentence):
        binarized(network, **{**given, "removed": [], **change})
    assert type(network.a) is nn.Conv2d


@pytest.mark.parametrize("scale", ["sample", "patch", "constant"])
def test_every_latent_weight_gets_a_gradient(images, scale):
    network = Net().eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    made = thinet.binarize(network, order=2, scale=scale, images=images)
    assert [type(one) for one in (network.a, network.relu)] == [nn.Conv2d, nn.ReLU]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not made.training
    assert list(binary_layers(made)) == ["a", "b"]
    labels = torch.arange(8) % 5
    made.train()
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(made(images), labels)
        loss.backward()
        assert all(one.grad.abs().sum() > 0 for one in made.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_one_line_says_what_was_done(images, caplog):
    with caplog.at_level(logging.INFO, "thinet"):
        thinet.binarize(Net(), images=images)
    assert [record.getMessage() for record in caplog.records] == [
        "binary, order 2: 2 layers, 2 BatchNorms added, 1 ReLU removed; in floating point: "
        "stem (it is the first layer); head (it is the last layer)"
    ]


@pytest.mark.parametrize("form", [torch.Tensor.clone, lambda x: [x[:4], x[4:]],
                                  lambda x: ((part, None) for part in x.split(4))])  # fmt: skip
def test_images_set_the_statistics_of_new_norms_and_of_nothing_else(images, form):
    network = Net()
    network(images)
    given = form(images)
    parts = [images] if isinstance(given, torch.Tensor) else images.split(4)
    made = thinet.binarize(network, images=given)
    assert torch.equal(made.bn.running_mean, network.bn.running_mean)
    norm = made.a.norm
    with torch.no_grad():
        network.eval()
        seen = [network.pool(network.bn(network.stem(part))) for part in parts]
    mean = torch.stack([one.mean((0, 2, 3)) for one in seen]).mean(0)
    var = torch.stack([one.transpose(0, 1).flatten(1).var(1) for one in seen]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    assert (norm.momentum, norm.training) == (0.1, True)
    assert made.b.norm.num_batches_tracked == len(parts)
    estimate_norms_(made, ["a", "b"], parts)  # once more is the same again
    torch.testing.assert_close(norm.running_mean, mean)
    assert made.b.norm.num_batches_tracked == len(parts)


def test_where_it_is_called_makes_no_difference(images):
    network = Net()
    made = thinet.binarize(network, images=images)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        other = thinet.binarize(network, images=images)
    assert all(torch.equal(one, other.state_dict()[key]) for key, one in made.state_dict().items())
    other(images).sum().backward()
    assert other.a.weight.grad.any()
    on_paper = thinet.binarize(Net().to("meta"), images=images)
    assert list(binary_layers(on_paper)) == list(binary_layers(made))


def test_without_images_a_common_size_is_tried():
    made = thinet.binarize(Net(), order=1)
    assert made.a.norm.running_mean.tolist() == [0.0] * 16
    mlp = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 5))
    assert list(binary_layers(thinet.binarize(mlp))) == ["2"]
    flat = nn.Sequential(nn.Unflatten(1, (3, 7)), nn.Linear(7, 32), nn.Linear(32, 5))
    with pytest.raises(ThinetError, match="common size: pass some"):
        thinet.binarize(flat)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (7, "images=7 cannot be iterated over"),
        ([], "images holds none"),
        (["a"], "images must be tensors"),
        (torch.zeros(0, 3, 12, 12), "images must be tensors"),
        (torch.full((2, 3, 12, 12), float("nan")), r"is not finite \(NaN or infinite\)"),
        (torch.zeros(1, 3, 12, 12), "batches of at least 2 images"),
        ([torch.zeros(2, 3, 12, 12), torch.zeros(2, 7, 12, 12)], r"shape \(2, 7, 12, 12\)"),
    ],
)
def test_bad_images_are_one_sentence(given, sentence):
    with pytest.raises(ThinetError, match=sentence):
        thinet.binarize(Net(), images=given)


@pytest.mark.parametrize("quantizer", [Quantizer(1, "sample", 1), Quantizer(3, "constant", 0.5)])
def test_a_saved_network_is_converted_again(tmp_path, quantizer):
    torch.manual_seed(0)
    network = build(BUILDER.target, **BUILDER.arguments)
    images = torch.randn(4, 3, 16, 16)
    conversion = plan_conversion(network, images)
    made = thinet.binarize(
        network, quantizer.order, scale=quantizer.scale, clip=quantizer.clip, images=images
    )
    made.train()(images)
    spec = Spec(BUILDER, transforms=(conversion_transform(conversion, quantizer),))
    thinet.save(made, tmp_path, spec)
    back = thinet.load(tmp_path)
    assert torch.equal(back(images), made.eval()(images))
    assert {path: one.quantizer for path, one in binary_layers(back).items()} == dict.fromkeys(
        conversion.binary, quantizer
    )

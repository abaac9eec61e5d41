"""Zeroing filters equals removing them, in every network of conf/model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from thinet.models import build
from thinet.surgery import difference, masked, remove_, shared_copy, trace
from thinet.widths.resolve import resolve_layers

# Whole libraries are tested elsewhere, and so is what is not a chain or made of residual blocks.
MODELS = [
    path
    for path in sorted((Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))
    if path.stem not in ("torchvision", "timm")
    and not path.stem.startswith("mobilenet")
    # Every one of their layers is in a stream: tests/models/test_binary_resnet.py.
    and path.stem not in ("resnet18_binary", "resnet20_binary")
    # As vgg11, from 63 pixels on; as resnet18 and resnet34, at 32 pixels the same networks.
    and path.stem not in ("alexnet", "alexnet_half", "resnet18_cifar", "resnet34_cifar")
]


def make(path):
    """The network of a model file for 32 pixels and 10 classes, with BatchNorm that shifts."""
    arguments = yaml.safe_load(path.read_text())["build"]
    torch.manual_seed(0)
    net = build(arguments.pop("_target_"), **arguments, num_classes=10, image_size=32)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.3)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)
    return net.eval()


def readers(net, layers):
    """Which modules read each layer, from the families' structure and not from a trace."""
    named = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if any(name.startswith("features") for name in named):  # a chain
        return {name: [named[named.index(name) + 1]] for name in layers}
    found = {}
    for name in layers:
        block, _, conv = name.rpartition(".")
        found[name] = [f"{block}.conv{int(conv.removeprefix('conv')) + 1}"]
    if "conv1" in found:  # the stem before bottlenecks, whose first shortcut is a convolution
        found["conv1"] = ["layer1.0.conv1", "layer1.0.downsample.0"]
    return found


def zeroing(net, keep):
    """Hooks that hide from each reader what it would no longer see."""

    def hook(filters, kept):
        mask = torch.zeros(filters)
        mask[kept] = 1

        def hide(_module, inputs):
            x = inputs[0]
            by_filter = x.reshape(x.shape[0], filters, -1) * mask.to(x).view(1, -1, 1)
            return by_filter.view_as(x)

        return hide

    handles = []
    for name, found in readers(net, keep).items():
        hide = hook(net.get_submodule(name).weight.shape[0], keep[name])
        handles += [net.get_submodule(reader).register_forward_pre_hook(hide) for reader in found]
    return handles


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_zeroing_equals_removing(path, random_keep):
    net = make(path)
    images = torch.randn(2, 3, 32, 32)
    graph = trace(net, images[:1])
    names, _ = resolve_layers(graph, "inner")
    keep = random_keep(graph, names, seed=1)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        net, images = net.to(dtype), images.to(dtype)
        slim = remove_(shared_copy(net), graph, keep)
        handles = zeroing(net, keep)
        assert difference(net, slim, images) < tolerance
        for handle in handles:
            handle.remove()
        # It is no accident: the filters matter to the output.
        assert difference(net, slim, images) > 1e-3
    assert difference(masked(net, graph, keep), slim, images) < tolerance
    for name, kept in keep.items():
        module = slim.get_submodule(name)
        assert module.weight.shape[0] == len(kept)
        assert len(kept) == getattr(module, "out_channels", getattr(module, "out_features", None))


# The others have the same blocks, only more of them.
STREAMS = [path for path in MODELS if path.stem in ("resnet18", "resnet50")]


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_zeroing_equals_removing_of_whole_streams(path, random_keep, check_law):
    net, images = make(path).double(), torch.randn(2, 3, 32, 32).double()
    graph = trace(net, images[:1])
    names, left = resolve_layers(graph, "all")
    (head,) = left
    assert head == [name for name, m in net.named_modules() if isinstance(m, nn.Linear)][-1]
    check_law(net, graph, random_keep(graph, names, seed=2), [images], 1e-10)


@pytest.mark.parametrize(
    "path",
    [one for one in MODELS if "paper_layers: []" not in one.read_text()],
    ids=lambda path: path.stem,
)
def test_layers_of_the_paper_can_all_be_pruned(path):
    with torch.device("meta"):
        arguments = yaml.safe_load(path.read_text())
        settings = arguments["build"]
        net = build(settings.pop("_target_"), **settings, num_classes=10, image_size=32)
    graph = trace(net, torch.empty(1, 3, 32, 32, device="meta"))
    chosen, skipped = resolve_layers(graph, "paper", arguments["paper_layers"])
    assert skipped == {}
    inner, left = resolve_layers(graph, "inner")
    assert set(chosen) <= set(inner)
    layers = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sorted([*inner, *left]) == sorted(layers)
    for name in left:  # in residual networks what is tied to the shortcut, and nothing else
        assert "conv1" not in name.split(".")[1:]
    everything, left = resolve_layers(graph, "all")
    assert len(left) < len(layers) - len(inner) or inner == everything

"""Zeroing equals removing in a representative of every family of torchvision's classifiers.

Pains of the peers' users that are tested here: operations that raise or hang (ShuffleNet, Swin,
MaxViT, ViT), dense concatenations that take minutes, coupling errors, batches of another size.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import convnext, swin_transformer
from torchvision.models.maxvit import MaxVit
from torchvision.models.vision_transformer import VisionTransformer

from thinet.surgery import settle, trace
from thinet.widths.resolve import resolve_layers


def named(name, **options):
    return partial(models.get_model, name, weights=None, num_classes=10, **options)


def small_convnext():
    blocks = [convnext.CNBlockConfig(16, 24, 1), convnext.CNBlockConfig(24, None, 2)]
    return convnext.ConvNeXt(blocks, num_classes=10)


def small_swin(block, merging):
    return swin_transformer.SwinTransformer(
        [4, 4], 16, [2, 1], [2, 4], [2, 2], num_classes=10, block=block, downsample_layer=merging
    )


def small_vit():
    return VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=10)


def small_maxvit():
    return MaxVit(
        (32, 32), stem_channels=8, partition_size=4, block_channels=[8, 16], block_layers=[1, 1],
        head_dim=4, stochastic_depth_prob=0.0, num_classes=10,
    )  # fmt: skip


def with_small_head(net, channels, side):
    net.classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(channels * side**2, 20), nn.ReLU(inplace=True), nn.Linear(20, 10)
    )
    return net


def small_vgg():
    features = models.vgg.make_layers([8, "M", 12, 16, "M"], batch_norm=True)
    return with_small_head(models.VGG(features, num_classes=10, init_weights=False), 16, 7)


def small_alexnet():
    with torch.device("meta"):
        net = models.AlexNet(num_classes=10)
    for module in with_small_head(net.to_empty(device="cpu"), 256, 6).modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    return net


NO_AUXILIARY = {"aux_logits": False, "init_weights": False}
# The network, its images' size, groups that inner prunes, further ones that all prunes, and how
# many layers are left whole even so (in convolutional networks only the last).
FAMILIES = {
    "alexnet": (small_alexnet, 64, 6, 0, 1),
    "convnext": (small_convnext, 32, 3, 0, 7),
    "densenet121": (named("densenet121"), 32, 120, 0, 1),
    "efficientnet_b0": (named("efficientnet_b0"), 32, 35, 5, 1),
    "googlenet": (named("googlenet", **NO_AUXILIARY), 32, 57, 0, 1),
    "inception_v3": (named("inception_v3", **NO_AUXILIARY), 75, 94, 0, 1),
    "maxvit": (small_maxvit, 32, 11, 0, 0),
    "mnasnet0_5": (named("mnasnet0_5"), 32, 20, 5, 1),
    "mobilenet_v2": (named("mobilenet_v2"), 32, 20, 5, 1),
    "mobilenet_v3_small": (named("mobilenet_v3_small"), 32, 23, 4, 1),
    "regnet_x_400mf": (named("regnet_x_400mf"), 32, 45, 4, 1),
    "regnet_y_400mf": (named("regnet_y_400mf"), 32, 49, 4, 1),
    "resnet18": (named("resnet18"), 32, 8, 4, 1),
    "resnet50": (named("resnet50", width_per_group=16), 32, 33, 4, 1),
    "shufflenet_v2_x0_5": (named("shufflenet_v2_x0_5"), 32, 20, 0, 10),
    "squeezenet1_0": (named("squeezenet1_0"), 48, 25, 0, 1),
    "swin": (
        partial(
            small_swin, swin_transformer.SwinTransformerBlock, swin_transformer.PatchMerging
        ), 32, 3, 0, 0,
    ),
    "swin_v2": (
        partial(
            small_swin, swin_transformer.SwinTransformerBlockV2, swin_transformer.PatchMergingV2
        ), 32, 3, 0, 0,
    ),
    "vgg": (small_vgg, 32, 4, 0, 1),
    "vit": (small_vit, 32, 2, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_zeroing_equals_removing(name, randomise, random_keep, check_law):
    make, size, inner, summed, whole = FAMILIES[name]
    torch.manual_seed(0)
    net = randomise(make())
    images = torch.randn(3, 3, size, size)
    graph = trace(net, images[:1])
    names, skipped = resolve_layers(graph, "inner")
    everything, left = resolve_layers(graph, "all")
    assert (len(names), len(everything) - len(names)) == (inner, summed)
    assert not whole or len(left) == whole
    assert (skipped == left) == (names == everything)
    listed = {layer.name for group in map(graph.groups.get, everything) for layer in group.layers}
    layers = {k for k, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    followers = {use.tensor.removesuffix(".weight") for use in graph.uses if use.role == "follow"}
    assert layers <= listed | set(left) | followers  # nothing goes unmentioned
    check_law(net, graph, random_keep(graph, names, 1), [images], 1e-4)
    net, images = net.double(), images.double()
    check_law(net, graph, random_keep(graph, everything, 2), [images, images[:1]], 1e-10)


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "vit", "convnext"])
def test_the_whole_plan_passes_the_trial(name, randomise):
    make, size, *_ = FAMILIES[name]
    torch.manual_seed(0)
    net, images = randomise(make()).train(), torch.randn(2, 3, size, size)
    graph = trace(net, images[:1])
    counts = {key: max(1, graph.groups[key].units // 2) for key in graph.prunable(summed=True)}
    assert settle(net, graph, counts, images) == (counts, {})

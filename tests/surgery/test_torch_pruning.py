"""Torch-Pruning as an oracle: the same filters of one layer removed, the same network is left."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch_pruning as tp
from torch import nn
from torchvision import models

from thinet.surgery import remove_, trace


class Branches(nn.Module):
    """Concatenation, a residual addition, a gate and a flattened map."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.c, self.d = nn.Conv2d(3, 6, 1), nn.Conv2d(14, 8, 3, padding=1)
        self.bn, self.squeeze = nn.BatchNorm2d(14), nn.Conv2d(8, 4, 1)
        self.excite, self.many, self.head = nn.Conv2d(4, 8, 1), nn.Linear(128, 10), nn.Linear(10, 4)

    def forward(self, x):
        a = torch.relu(self.a(x))
        x = torch.cat([torch.relu(self.b(a) + self.c(x)), a], 1)
        x = torch.relu(self.d(torch.relu(self.bn(x))))
        x = x * self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
        x = nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)
        return self.head(torch.relu(self.many(x)))


NETWORKS = {
    "branches": Branches,
    "resnet": partial(models.ResNet, models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10),
    "mobilenet_v2": partial(models.mobilenet_v2, num_classes=10, width_mult=0.25),
    "densenet": partial(models.DenseNet, 8, (2, 2), 12, num_classes=10),
    "squeezenet": partial(models.squeezenet1_1, num_classes=10),
}


def theirs(net, images, layer, removed):
    graph = tp.DependencyGraph().build_dependency(net, example_inputs=images)
    module = net.get_submodule(layer)
    linear = isinstance(module, nn.Linear)
    prune = tp.prune_linear_out_channels if linear else tp.prune_conv_out_channels
    graph.get_pruning_group(module, prune, idxs=removed).prune()
    return net


@pytest.mark.parametrize("name", NETWORKS)
def test_one_layer_after_the_other(name, randomise):
    torch.manual_seed(0)
    net = randomise(NETWORKS[name]()).double()
    size = 48 if name == "squeezenet" else 32
    images = torch.randn(2, 3, size, size).double()
    graph = trace(net, images[:1])
    names = graph.prunable(summed=True)
    assert len(names) == {"branches": 5, "resnet": 8, "mobilenet_v2": 24, "densenet": 10,
                          "squeezenet": 25}[name]  # fmt: skip
    generator, changes = torch.Generator().manual_seed(1), []
    for group in names:
        units = graph.groups[group].units
        keep = torch.randperm(units, generator=generator)[: units // 2 + 1].sort().values.tolist()
        layer = graph.groups[group].layers[-1]
        removed = sorted(set(range(layer.filters)) - set(layer.kept(keep)))
        assert removed
        ours = remove_(copy.deepcopy(net), graph, {group: keep})
        other = theirs(copy.deepcopy(net), images, layer.name, removed)
        with torch.no_grad():
            expected = other(images)
            changes.append(float((expected - net(images)).abs().max()))
            torch.testing.assert_close(ours(images), expected, rtol=1e-10, atol=1e-10)
        shapes = [{k: t.shape for k, t in found.state_dict().items()} for found in (ours, other)]
        assert shapes[0] == shapes[1]
    # It is no accident: the filters matter, but for those that a ReLU silences.
    assert sum(change > 1e-8 for change in changes) >= len(changes) - 1

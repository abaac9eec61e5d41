"""Networks written in every awkward way: what may go is found, and removing equals zeroing.

Pains of the peers' users that are tested here: concatenations of one tensor with itself and of
parts that shrink differently, grouped and depthwise convolutions, a convolution of one filter taken
for a depthwise one, channel shuffles and gated units, modules used twice, functional calls.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.surgery import trace

CASES = {}


def case(readers):
    """Register a network with the groups that can be pruned and who reads them.

    ``a+b`` are layers whose outputs are added up, ``a*b`` such as go together for other reasons.
    """

    def register(kind):
        CASES[kind.__name__] = (kind, readers)
        return kind

    return register


class Parts(nn.Module):
    """The pieces that the networks below are made of; images are 3 x 8 x 8."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.wide = nn.Conv2d(16, 8, 1)
        self.bn = nn.BatchNorm2d(8)
        self.own()
        self.head = nn.Linear(8, 5)

    def own(self):
        """Further pieces of one network."""

    def out(self, x):
        return self.head(x.mean((2, 3)))


@case({"a": "b", "b": "head"})
class FunctionalActivations(Parts):
    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn(self.a(x))), 2)
        return self.out(F.gelu(F.avg_pool2d(self.b(F.dropout(x, 0.5, self.training)), 2)))


@case({"w1": "w2", "w2": "w3"})
class ParametersWithoutModules(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(8))
        self.w2 = nn.Parameter(torch.randn(6, 8, 3, 3))
        self.w3 = nn.Parameter(torch.randn(5, 6))

    def forward(self, x):
        x = F.conv2d(F.conv2d(x, self.w1, self.b1).relu(), self.w2).relu()
        return F.linear(x.amax((2, 3)), self.w3)


@case({"a": "b", "b": "head"})
class ReaderUsedTwice(Parts):
    def forward(self, x):
        return self.out(self.b(F.relu(self.a(x))) * self.b(torch.tanh(self.a(x.flip(3)))))


@case({"a*c": "b", "b": "head"})
class SharedBetweenTwoProducers(Parts):
    """a and c feed the same b, so that their channels go together."""

    def own(self):
        self.c = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return self.out(self.b(F.relu(self.a(x))) + self.b(F.relu(self.c(x))))


@case({"a": "wide", "c": "wide", "wide": "head"})
class Concatenation(Parts):
    """Of a pruned branch, the image and another branch."""

    def own(self):
        self.c = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x):
        x = torch.cat([F.relu(self.a(x)), x, self.c(x)], 1)
        return self.out(F.relu(self.wide(x)))


@case({"a": "wide", "wide": "b", "b": "head"})
class ConcatenationWithItself(Parts):
    def forward(self, x):
        x = F.relu(self.a(x))
        x = F.relu(self.wide(torch.cat([x, x.sigmoid()], 1)))
        return self.out(self.b(x))


@case({"a": "b", "b+c": "head"})
class ResidualAdd(Parts):
    def own(self):
        self.c = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return self.out(F.relu(self.b(F.relu(self.bn(self.a(x)))) + self.c(x)))


@case({"a": "b", "b": "head"})
class Depthwise(Parts):
    def own(self):
        self.deep = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.bn2 = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.out(self.b(F.relu(self.bn2(self.deep(F.relu6(self.bn(self.a(x))))))))


@case({"a*excite": "squeeze b", "squeeze": "excite", "b": "head"})
class SqueezeAndExcite(Parts):
    """The gate ties a to the last layer of the gate."""

    def own(self):
        self.squeeze, self.excite = nn.Linear(8, 4), nn.Conv2d(4, 8, 1)

    def forward(self, x):
        x = F.relu(self.a(x))
        gate = F.relu(self.squeeze(x.mean((2, 3))))[:, :, None, None]
        return self.out(self.b(x * torch.sigmoid(self.excite(gate))))


@case({"a": "b", "b": "many"})
class FlattenedMap(Parts):
    def own(self):
        self.many = nn.Linear(8 * 16, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.b(F.relu(self.a(x)))), 2)
        return self.many(x.permute(0, 2, 3, 1).reshape(len(x), -1))


@case({"a": "b", "b": "head"})
class ViewsThatFollow(Parts):
    def forward(self, x):
        x = F.relu(self.a(x))
        n, c, h, w = x.shape
        x = x.view(n, c, h * w).transpose(1, 2).reshape(n, h, w, c).permute(0, 3, 1, 2)
        return self.out(self.b(x.unsqueeze(1).squeeze(1).contiguous()))


@case({"a": "b", "b": "head"})
class PaddedMaps(Parts):
    def forward(self, x):
        x = F.max_pool2d(F.pad(self.a(x), (1, 1, 1, 1), value=-1e9), 3, 1)
        x = F.pad(torch.sigmoid(F.pad(x, (1, 0, 0, 1))), (2, 1, 0, 0), mode="reflect")
        return self.out(self.b(x))


@case({"a": "b", "b": "head"})
class ScalesOfItsOwn(Parts):
    def own(self):
        self.gamma = nn.Parameter(torch.rand(8, 1, 1))
        self.slope = nn.PReLU()
        self.plain = nn.BatchNorm2d(8, affine=False)

    def forward(self, x):
        return self.out(self.b(self.slope(self.plain(self.a(x)) * self.gamma + 0.1)))


@case({"a": "b", "b": "head"})
class UnitsOnRows(Parts):
    """A linear layer without bias on a map whose channels are last, multiplied by hand."""

    def own(self):
        self.b = nn.Linear(8, 8, bias=False)

    def forward(self, x):
        x = self.b(F.relu(self.a(x)).permute(0, 2, 3, 1))
        return x.mean((1, 2)) @ self.head.weight.t() + self.head.bias


@case({"a": "b", "b": "head"})
class Upsampled(Parts):
    def forward(self, x):
        x = F.interpolate(F.relu(self.a(x)), scale_factor=2)
        return self.out(self.b(F.interpolate(x, (9, 9), mode="bilinear")))


@case({"a": "b"})
class TwoOutputs(Parts):
    def forward(self, x):
        features = F.relu(self.b(F.relu(self.a(x))))
        return {"logits": self.out(features), "features": [features]}


@case({"a": "b", "b": "head"})
class InputAdded(Parts):
    def forward(self, x):
        return self.out(self.b(F.relu(self.a(x) + x.sum(1, keepdim=True))))


@case({"a": "b"})
class PaddedShortcut(Parts):
    """Option A: every other pixel, and zeros for the channels that are new."""

    def own(self):
        self.stem, self.a = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, stride=2, padding=1)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = self.b(F.relu(self.bn(self.a(x))))
        return self.out(F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))))


@case({"up": "b", "b": "head"})
class Transposed(Parts):
    def own(self):
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)

    def forward(self, x):
        return self.out(self.b(F.relu(self.up(F.relu(self.a(x))))))


@case({"a*b": "b head"})
class ModuleAfterItself(Parts):
    """b reads what a makes and then what b makes, so that all three are one width."""

    def forward(self, x):
        return self.out(F.relu(self.b(F.relu(self.b(F.relu(self.a(x)))))))


@case({"a": "b", "b+d": "c wide", "c": "d", "stem": "wide", "wide": "head"})
class BranchesOfDifferentDepth(Parts):
    """One branch of the concatenation is deep and residual, the other one a single layer."""

    def own(self):
        self.stem, self.c, self.d = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 7, 1), nn.Conv2d(7, 8, 1)

    def forward(self, x):
        deep = self.bn(self.b(F.relu(self.a(x))))
        deep = deep + self.d(F.relu(self.c(deep)))
        x = torch.cat([F.relu(deep), F.avg_pool2d(self.stem(x), 3, 1, 1)], 1)
        return self.out(F.relu(self.wide(x)))


@case({"a": "wide", "wide": "head"})
class ConcatenationWithAWholePart(Parts):
    """The softmax holds c together; a is pruned beside it."""

    def own(self):
        self.c = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        x = torch.cat([F.softmax(self.c(x), 1), F.relu(self.a(x))], 1)
        return self.out(F.relu(self.wide(x)))


@case({"a": "one two three", "one": "two three", "two": "three", "three": "head"})
class DenseSkips(Parts):
    def own(self):
        self.one, self.two = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(12, 4, 1)
        self.three, self.bn3 = nn.Conv2d(16, 8, 1), nn.BatchNorm2d(16)

    def forward(self, x):
        parts = [self.a(x)]
        for layer in (self.one, self.two):
            parts.append(layer(F.relu(torch.cat(parts, 1))))
        return self.out(self.three(F.relu(self.bn3(torch.cat(parts, 1)))))


@case({"b": "head"})
class OneFilter(Parts):
    """A convolution of one filter is no depthwise convolution; one filter has to stay."""

    def own(self):
        self.a, self.b = nn.Conv2d(3, 1, 3), nn.Conv2d(1, 8, 3)

    def forward(self, x):
        return self.out(self.b(F.relu(self.a(x))))


@case({"fc": "fc2", "a": "many", "many": "fc"})
class WideHead(Parts):
    """A BatchNorm on linear units, and dropout."""

    def own(self):
        self.many, self.fc, self.fc2 = nn.Linear(128, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.bn1, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.3)

    def forward(self, x):
        x = torch.flatten(F.adaptive_avg_pool2d(F.relu(self.a(x)), 4), 1)
        x = self.drop(F.elu(self.bn1(self.many(x))))
        return self.fc2(F.hardswish(self.fc(x)))


@case({"a": "b", "b": "twin", "twin": "head"})
class WeightsTiedBetweenModules(Parts):
    """Two modules that hold one weight, with biases of their own."""

    def own(self):
        self.twin, self.c = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c.weight = self.b.weight

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(F.relu(self.twin(F.relu(self.b(x) * self.c(x.flip(2))))))


@case({"a": "b", "b": "head"})
class WhereAndPositions(Parts):
    """A choice between two forms of one map, and an entry of its own for each pixel."""

    def own(self):
        self.place = nn.Parameter(torch.randn(1, 8, 8, 8))
        self.register_buffer("mask", torch.rand(8, 1, 1))

    def forward(self, x):
        x = self.a(x) + self.place
        x = torch.where(x > 0, x, 0.1 * x) * self.mask
        shifted = F.pad(x[:, :, 1:, :-1], (1, 0, 0, 1))
        return self.out(self.b(torch.maximum(x, shifted)))


@case({"a": "b", "b": "head"})
class InstanceNormalised(Parts):
    def forward(self, x):
        return self.out(self.b(F.relu(F.instance_norm(self.a(x)))))


@case({"a": "b", "b": "head"})
class FrozenStem(Parts):
    def forward(self, x):
        with torch.no_grad():
            x = F.relu(self.bn(self.a(x)))
        return self.out(self.b(x))


@case({"a": "q k", "mlp1": "mlp2", "b": "head"})
class AttentionBesideConvolutions(Parts):
    """Queries and keys meet in a product and stay whole, what they read and the MLP do not."""

    def own(self):
        self.q, self.k = nn.Linear(8, 8), nn.Linear(8, 8)
        self.mlp1, self.mlp2 = nn.Linear(64, 12), nn.Linear(12, 64)

    def forward(self, x):
        rows = F.relu(self.a(x)).flatten(2).transpose(1, 2)
        mixed = (self.q(rows) @ self.k(rows).transpose(1, 2)).softmax(-1)
        mixed = mixed + self.mlp2(F.gelu(self.mlp1(mixed)))
        return self.out(self.b(mixed.reshape(len(x), 8, 8, 64)[..., :8]))


def make(kind, randomise):
    torch.manual_seed(0)
    return randomise(kind().double())


@pytest.mark.parametrize("name", CASES)
def test_what_may_go_is_found_with_its_readers(name, randomise):
    kind, readers = CASES[name]
    graph = trace(make(kind, randomise), torch.randn(1, 3, 8, 8).double())
    found = {}
    for group in graph.groups.values():
        if group.reason is None and group.units > 1:
            key = ("+" if group.summed else "*").join(layer.name for layer in group.layers)
            found[key] = sorted(reader.name for reader in group.consumers)
    assert found == {key: sorted(names.split()) for key, names in readers.items()}


@pytest.mark.parametrize("name", CASES)
def test_zeroing_equals_removing(name, randomise, random_keep, check_law):
    kind, readers = CASES[name]
    net, images = make(kind, randomise), torch.randn(3, 3, 8, 8).double()
    state = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    graph = trace(net, images[:1])
    groups = [key.replace("+", "*").split("*")[0] for key in readers]
    for chosen in [*([group] for group in groups), groups]:
        for seed in (1, 2):
            keep = random_keep(graph, chosen, seed)
            check_law(net, graph, keep, [images, images[:1]], 1e-10)
    for key, tensor in net.state_dict().items():  # the slim one shared its tensors
        assert torch.equal(tensor, state[key])

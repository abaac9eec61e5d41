"""Networks written in every awkward way: what may go is found, and removing equals zeroing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.surgery import difference, masked, remove_, shared_copy, trace

CASES = {}


def case(**readers):
    """Register a network with the layers that can be pruned and who reads them."""

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


@case(a=["b"], b=["head"])
class FunctionalActivations(Parts):
    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn(self.a(x))), 2)
        return self.out(F.gelu(F.avg_pool2d(self.b(F.dropout(x, 0.5, self.training)), 2)))


@case(w1=["w2"], w2=["w3"])
class ParametersWithoutModules(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(8))
        self.w2 = nn.Parameter(torch.randn(6, 8, 3, 3))
        self.w3 = nn.Parameter(torch.randn(5, 6))

    def forward(self, x):
        x = F.conv2d(F.conv2d(x, self.w1, self.b1).relu(), self.w2).relu()
        return F.linear(x.amax((2, 3)), self.w3)


@case(a=["b"], b=["head"])
class ReaderUsedTwice(Parts):
    def forward(self, x):
        return self.out(self.b(F.relu(self.a(x))) * self.b(torch.tanh(self.a(x.flip(3)))))


@case(b=["head"])
class SharedBetweenTwoProducers(Parts):
    """a and c feed the same b, so that their channels go together: neither by itself."""

    def own(self):
        self.c = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return self.out(self.b(F.relu(self.a(x))) + self.b(F.relu(self.c(x))))


@case(a=["wide"], c=["wide"], wide=["head"])
class Concatenation(Parts):
    """Of a pruned branch, the image and another branch."""

    def own(self):
        self.c = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x):
        x = torch.cat([F.relu(self.a(x)), x, self.c(x)], 1)
        return self.out(F.relu(self.wide(x)))


@case(a=["wide"], wide=["b"], b=["head"])
class ConcatenationWithItself(Parts):
    def forward(self, x):
        x = F.relu(self.a(x))
        x = F.relu(self.wide(torch.cat([x, x.sigmoid()], 1)))
        return self.out(self.b(x))


@case(a=["b"])
class ResidualAdd(Parts):
    def own(self):
        self.c = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return self.out(F.relu(self.b(F.relu(self.bn(self.a(x)))) + self.c(x)))


@case(a=["b"], b=["head"])
class Depthwise(Parts):
    def own(self):
        self.deep = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.bn2 = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.out(self.b(F.relu(self.bn2(self.deep(F.relu6(self.bn(self.a(x))))))))


@case(squeeze=["excite"], b=["head"])
class SqueezeAndExcite(Parts):
    """The gate ties a to the last layer of the gate."""

    def own(self):
        self.squeeze, self.excite = nn.Linear(8, 4), nn.Conv2d(4, 8, 1)

    def forward(self, x):
        x = F.relu(self.a(x))
        gate = F.relu(self.squeeze(x.mean((2, 3))))[:, :, None, None]
        return self.out(self.b(x * torch.sigmoid(self.excite(gate))))


@case(a=["b"], b=["many"])
class FlattenedMap(Parts):
    def own(self):
        self.many = nn.Linear(8 * 16, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.b(F.relu(self.a(x)))), 2)
        return self.many(x.permute(0, 2, 3, 1).reshape(len(x), -1))


@case(a=["b"], b=["head"])
class ViewsThatFollow(Parts):
    def forward(self, x):
        x = F.relu(self.a(x))
        n, c, h, w = x.shape
        x = x.view(n, c, h * w).transpose(1, 2).reshape(n, h, w, c).permute(0, 3, 1, 2)
        return self.out(self.b(x.unsqueeze(1).squeeze(1).contiguous()))


@case(a=["b"], b=["head"])
class PaddedMaps(Parts):
    def forward(self, x):
        x = F.max_pool2d(F.pad(self.a(x), (1, 1, 1, 1), value=-1e9), 3, 1)
        x = F.pad(torch.sigmoid(F.pad(x, (1, 0, 0, 1))), (2, 1, 0, 0), mode="reflect")
        return self.out(self.b(x))


@case(a=["b"], b=["head"])
class ScalesOfItsOwn(Parts):
    def own(self):
        self.gamma = nn.Parameter(torch.rand(8, 1, 1))
        self.slope = nn.PReLU()
        self.plain = nn.BatchNorm2d(8, affine=False)

    def forward(self, x):
        return self.out(self.b(self.slope(self.plain(self.a(x)) * self.gamma + 0.1)))


@case(a=["b"], b=["head"])
class UnitsOnRows(Parts):
    """A linear layer without bias on a map whose channels are last, multiplied by hand."""

    def own(self):
        self.b = nn.Linear(8, 8, bias=False)

    def forward(self, x):
        x = self.b(F.relu(self.a(x)).permute(0, 2, 3, 1))
        return x.mean((1, 2)) @ self.head.weight.t() + self.head.bias


@case(a=["b"], b=["head"])
class Upsampled(Parts):
    def forward(self, x):
        x = F.interpolate(F.relu(self.a(x)), scale_factor=2)
        return self.out(self.b(F.interpolate(x, (9, 9), mode="bilinear")))


@case(a=["b"])
class TwoOutputs(Parts):
    def forward(self, x):
        features = F.relu(self.b(F.relu(self.a(x))))
        return {"logits": self.out(features), "features": [features]}


@case(a=["b"], b=["head"])
class InputAdded(Parts):
    def forward(self, x):
        return self.out(self.b(F.relu(self.a(x) + x.sum(1, keepdim=True))))


@case(a=["b"])
class PaddedShortcut(Parts):
    """Option A: every other pixel, and zeros for the channels that are new."""

    def own(self):
        self.stem, self.a = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, stride=2, padding=1)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = self.b(F.relu(self.bn(self.a(x))))
        return self.out(F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))))


@case(c=["b"], b=["head"])
class GroupedAndMultiplied(Parts):
    """Groups, and several filters a channel, stay as they are; what follows may go."""

    def own(self):
        self.many = nn.Conv2d(8, 16, 3, groups=8, padding=1)
        self.grouped = nn.Conv2d(16, 8, 1, groups=2)
        self.c = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.grouped(F.relu(self.many(F.relu(self.a(x)))))
        return self.out(self.b(F.relu(self.c(F.relu(x)))))


@case(up=["b"], b=["head"])
class Transposed(Parts):
    def own(self):
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)

    def forward(self, x):
        return self.out(self.b(F.relu(self.up(F.relu(self.a(x))))))


def make(kind):
    torch.manual_seed(0)
    net = kind().double()
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if name.endswith(("running_mean", "bias")):
            tensor.data.normal_(0, 0.5)
        elif name.endswith(("running_var", "bn.weight")):
            tensor.data.uniform_(0.5, 1.5)
    return net


@pytest.mark.parametrize("name", CASES)
def test_what_may_go_is_found_with_its_readers(name):
    kind, readers = CASES[name]
    graph = trace(make(kind), torch.randn(1, 3, 8, 8).double())
    found = {
        layer: sorted(reader.name for reader in graph.layers[layer].consumers)
        for layer in graph.prunable()
    }
    assert found == {layer: sorted(names) for layer, names in readers.items()}
    assert all(
        layer.reason for layer in graph.layers.values() if layer.name not in graph.prunable()
    )


@pytest.mark.parametrize("name", CASES)
def test_zeroing_equals_removing(name):
    kind, readers = CASES[name]
    net, images = make(kind), torch.randn(3, 3, 8, 8).double()
    graph = trace(net, images[:1])
    for layers in ([layer] for layer in readers), [list(readers)]:
        for group in layers:
            keep = {layer: [1, 2, 4] for layer in group if layer != "squeeze"}
            keep |= {"squeeze": [0, 3]} if "squeeze" in group else {}
            slim = remove_(shared_copy(net), graph, keep)
            assert difference(masked(net, graph, keep), slim, images) < 1e-10
            assert difference(net, slim, images) > 1e-6
            twin = make(kind)  # the copy shared its tensors, and the network is whole
            for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
                assert torch.equal(ours, theirs)

"""Ways of using channels that no removal can follow: the layer is left whole, the next is not.

Pains of the peers' users that are tested here: operations that are not known, normalisations over
channels, frozen BatchNorm, transformer blocks, broken graphs instead of a message.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.surgery import settle, trace


class Parts(nn.Module):
    """The pieces of the networks below; the use of what ``a`` makes forbids to prune it."""

    reason = ""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.own()
        self.head = nn.Linear(8, 5)

    def own(self):
        """Further pieces of one network."""

    def out(self, x):
        return self.head(F.gelu(x).mean((2, 3)))


class GroupNormalised(Parts):
    reason = "native_group_norm"

    def own(self):
        self.norm = nn.GroupNorm(2, 8)

    def forward(self, x):
        return self.out(self.b(F.relu(self.norm(self.a(x)))))


class LayerNormalised(Parts):
    reason = "native_layer_norm"

    def own(self):
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        x = self.norm(self.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.out(self.b(F.relu(x)))


class ChannelsAsPixels(Parts):
    """A transposed map: channels end up where pixels were."""

    reason = "b mixes them"

    def own(self):
        self.b = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.out(self.b(F.relu(self.a(x)).transpose(1, 2)))


class Softmax(Parts):
    reason = "_softmax"

    def forward(self, x):
        return self.out(self.b(F.softmax(self.a(x), 1)))


class MeanOverChannels(Parts):
    reason = "mean mixes them"

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(self.b(x - x.mean(1, keepdim=True)))


class OneChannelRead(Parts):
    reason = "select"

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(self.b(x)) + x[:, 0].mean((1, 2))[:, None]


class WrittenIntoABuffer(Parts):
    reason = "copy_"

    def forward(self, x):
        canvas = torch.zeros(len(x), 8, *x.shape[2:], dtype=x.dtype)
        canvas[:, :] = self.a(x)
        return self.out(self.b(canvas))


class PaddedChannels(Parts):
    reason = "padded to a fixed number of channels"

    def own(self):
        self.b = nn.Conv2d(10, 8, 1)

    def forward(self, x):
        return self.out(self.b(F.pad(F.relu(self.a(x)), (0, 0, 0, 0, 1, 1))))


class AddedToTheImage(Parts):
    """Three of the sums belong to no filter."""

    reason = "combined with values that no filter makes"

    def own(self):
        self.c = nn.Conv2d(3, 5, 1)

    def forward(self, x):
        return self.out(self.b(F.relu(self.a(x) + torch.cat([x, self.c(x)], 1))))


class UnequalParts(Parts):
    reason = "split_with_sizes cuts through them"

    def forward(self, x):
        left, right = self.a(x).split([3, 5], 1)
        return self.out(self.b(torch.cat([right.relu(), left], 1)))


class SlicedAtThree(Parts):
    reason = "slice cuts through them"

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(self.b(torch.cat([x[:, 3:], x[:, :3]], 1)))


class EverySecond(Parts):
    reason = "slice cuts through them"

    def own(self):
        self.b = nn.Conv2d(4, 8, 1)

    def forward(self, x):
        return self.out(self.b(F.relu(self.a(x))[:, ::2]))


class RolledChannels(Parts):
    reason = "roll cuts through them"

    def forward(self, x):
        return self.out(self.b(F.relu(self.a(x)).roll(1, 1)))


class PickedChannels(Parts):
    reason = "index is not known"

    def forward(self, x):
        order = torch.arange(7, -1, -1)
        return self.out(self.b(F.relu(self.a(x))[:, order]))


class GatedUnits(Parts):
    """GLU as one operation; written with chunk it can be followed."""

    reason = "glu is not known"

    def own(self):
        self.b = nn.Conv2d(4, 8, 1)

    def forward(self, x):
        return self.out(self.b(F.glu(self.a(x), 1)))


class ChannelsToPixels(Parts):
    reason = "pixel_shuffle is not known"

    def own(self):
        self.b = nn.Conv2d(2, 8, 1)

    def forward(self, x):
        return self.out(self.b(F.pixel_shuffle(self.a(x), 2)))


class LocalResponse(Parts):
    """Neighbouring channels meet; as in AlexNet and GoogLeNet of old."""

    reason = "padded to a fixed number of channels"

    def forward(self, x):
        return self.out(self.b(F.local_response_norm(F.relu(self.a(x)), 3)))


class Maxout(Parts):
    reason = "max is not known"

    def own(self):
        self.b = nn.Conv2d(4, 8, 1)

    def forward(self, x):
        x = self.a(x)
        return self.out(self.b(x.view(len(x), 2, 4, 8, 8).max(1).values))


class Einsum(Parts):
    reason = "is not known"

    def own(self):
        self.mix = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return self.out(self.b(torch.einsum("nchw,dc->ndhw", F.relu(self.a(x)), self.mix)))


class NormalisedOverEverything(Parts):
    """Statistics over channels and images at once."""

    reason = "var_mean is not known"

    def forward(self, x):
        x = self.a(x)
        variance, mean = torch.var_mean(x, dim=(1, 2, 3), keepdim=True)
        return self.out(self.b((x - mean) / variance))


class SharedScalesAcrossPixels(Parts):
    """A computed tensor that is as long as the channels."""

    reason = "combined with values that no filter makes"

    def forward(self, x):
        return self.out(self.b(F.relu(self.a(x)) * torch.linspace(0, 1, 8).view(8, 1, 1)))


class Attention(Parts):
    """Queries, keys and values are one projection that heads cut apart."""

    reason = "not known"

    def own(self):
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        rows = F.relu(self.a(x)).flatten(2).transpose(1, 2)
        rows, _ = self.attend(rows, rows, rows, need_weights=False)
        return self.out(self.b(rows.transpose(1, 2).reshape(x.shape[0], 8, 8, 8)))


class OneDimensional(Parts):
    reason = "not a plain 2-d convolution"

    def own(self):
        self.line = nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, x):
        x = self.line(F.relu(self.a(x)).flatten(2))
        return self.out(self.b(F.softmax(x, 1).view(len(x), 8, 8, 8)))


@pytest.mark.parametrize("kind", Parts.__subclasses__(), ids=lambda kind: kind.__name__)
def test_the_layer_is_left_whole_and_the_next_one_is_not(kind, randomise, check_law):
    torch.manual_seed(0)
    net, images = randomise(kind().double()), torch.randn(3, 3, 8, 8).double()
    graph = trace(net, images[:1])
    assert graph.prunable(summed=True) == ["b"]
    assert kind.reason in graph.group_of("a").reason
    check_law(net, graph, {"b": [1, 2, 4]}, [images, images[:1]], 1e-10)
    assert settle(net, graph, {"b": 4}, images) == ({"b": 4}, {})

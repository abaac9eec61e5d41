"""Ways of using channels that no removal can follow: the layer is left whole, the next is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.surgery import difference, masked, remove_, shared_copy, trace


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


class SlicedChannels(Parts):
    reason = "slice"

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(self.b(torch.cat([x[:, 4:], x[:, :4]], 1)))


class ChunkedChannels(Parts):
    reason = "split"

    def own(self):
        self.b = nn.Conv2d(4, 8, 1)

    def forward(self, x):
        left, right = self.a(x).chunk(2, 1)
        return self.out(self.b(left * right.sigmoid()))


class ShuffledChannels(Parts):
    reason = "a view splits"

    def forward(self, x):
        x = F.relu(self.a(x))
        n, c, h, w = x.shape
        return self.out(self.b(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)))


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


class Mirrored(Parts):
    reason = "its filters depend on one another"

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(self.b(x + x.flip(1)))


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


class AlsoReadByGroups(Parts):
    reason = "grouped is a grouped convolution"

    def own(self):
        self.grouped, self.tail = nn.Conv2d(8, 8, 1, groups=2), nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(self.b(x)) + self.tail(self.grouped(x).mean((2, 3)))


@pytest.mark.parametrize("kind", Parts.__subclasses__(), ids=lambda kind: kind.__name__)
def test_the_layer_is_left_whole_and_the_next_one_is_not(kind):
    torch.manual_seed(0)
    net, images = kind().double(), torch.randn(3, 3, 8, 8).double()
    graph = trace(net, images[:1])
    assert graph.prunable() == ["b"]
    assert kind.reason in graph.layers["a"].reason
    slim = remove_(shared_copy(net), graph, {"b": [1, 2, 4]})
    assert difference(masked(net, graph, {"b": [1, 2, 4]}), slim, images) < 1e-10
    assert difference(net, slim, images) > 1e-3

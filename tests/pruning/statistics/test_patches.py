"""Patch moments against torch.nn.functional.unfold."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.pruning.statistics import PatchMoments, Sampling, collect, patches, shard
from thinet.pruning.statistics.contributions import draw
from thinet.surgery import Group, trace
from thinet.surgery.graph import Consumer

GEOMETRIES = [
    # kernel, stride, padding, dilation, groups
    (1, 1, 0, 1, 1), (1, 2, 0, 1, 2), (3, 1, 1, 1, 1), (3, 2, 1, 1, 2), (3, 1, 2, 2, 4),
    (5, 2, 2, 1, 1), ((3, 1), (2, 1), (1, 0), (1, 2), 2),
]  # fmt: skip


def after_first(net, images):
    with torch.no_grad():
        return F.relu(net[0](images))


def reading(kernel=3, stride=1, padding=0, dilation=1, groups=1):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, kernel, stride, padding, dilation, groups)
    ).double()


def gather(net, images, sampling, batch=4, rank=0, world=1):
    group = trace(net, images[:1]).groups["0"]
    batches = shard(images, rank, world, batch)
    return collect(net, [group], [PatchMoments], batches, sampling, len(images))["0"][PatchMoments]


def unfolded(net, images, groups=1):
    """Every patch of the second convolution, (groups, images, positions, P)."""
    second = net[2]
    U = F.unfold(
        after_first(net, images), second.kernel_size, second.dilation, second.padding, second.stride
    )
    return U.transpose(1, 2).unflatten(2, (groups, -1)).permute(2, 0, 1, 3)


@pytest.mark.parametrize("positions", [None, 1000])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_moments_equal_those_of_unfold(geometry, positions):
    net = reading(*geometry)
    images = torch.randn(9, 3, 10, 9, generator=torch.Generator().manual_seed(0)).double()
    found = gather(net, images, Sampling(positions=positions))
    U = unfolded(net, images, geometry[-1]).flatten(1, 2)
    moments = found.of["2.weight"]
    assert found.rows == moments.count == U.shape[1]
    torch.testing.assert_close(moments.second, U.mT @ U, rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(moments.first, U.sum(dim=1), rtol=1e-10, atol=1e-9)
    centred = U - U.mean(dim=1, keepdim=True)
    torch.testing.assert_close(moments.centred(), centred.mT @ centred, rtol=1e-9, atol=1e-9)
    assert moments.rows is moments.cross is moments.off is moments.centred_cross() is None
    # The order of unknowns is that of the flattened weight.
    direct = (net[2](after_first(net, images)) - net[2].bias.view(-1, 1, 1)).flatten(2)
    flat = net[2].weight.flatten(1).unflatten(0, (geometry[-1], -1))
    ours = (U @ flat.mT).unflatten(1, (9, -1)).permute(1, 0, 3, 2).flatten(1, 2)
    torch.testing.assert_close(ours, direct, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("groups", [1, 4])
def test_sampled_positions_are_those_drawn_for_each_image(groups):
    net = reading(padding=1, groups=groups)
    images = torch.randn(5, 3, 10, 10, generator=torch.Generator().manual_seed(0)).double()
    sampling = Sampling(positions=8, rows_per_channel=0, seed=4)
    found = gather(net, images, sampling, batch=2)
    chosen = draw(list(range(5)), 8, 4, "patches", "2.weight", 0)[..., 1]
    U = unfolded(net, images, groups)
    U = torch.cat([U[:, n, (chosen[n] * 64).long()] for n in range(5)], dim=1)
    moments = found.of["2.weight"]
    assert found.rows == moments.count == 40
    torch.testing.assert_close(moments.second, U.mT @ U, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(moments.first, U.sum(dim=1), rtol=1e-10, atol=1e-10)


def test_a_linear_consumer_gives_one_row_an_image(network, images):
    group = trace(network, images[:1]).groups["conv3"]
    found = collect(network, [group], [PatchMoments], shard(images, 0, 1, 16), Sampling(), 70)
    inputs = []
    handle = network.linear.register_forward_hook(lambda _m, args, _o: inputs.append(args[0]))
    with torch.no_grad():
        network(images)
    handle.remove()
    summary = found["conv3"][PatchMoments]
    assert summary.rows == 70
    moments = summary.of["linear.weight"]
    torch.testing.assert_close(moments.second[0], inputs[0].T @ inputs[0], rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(moments.first[0], inputs[0].sum(dim=0), rtol=1e-10, atol=1e-9)


def reader_of(*unknowns, calls=1):
    consumers = tuple(
        Consumer(f"{place}.weight", torch.arange(4), calls, size, kind="linear", outputs=2)
        for place, size in enumerate(unknowns)
    )
    return Group("a", (), torch.arange(4), consumers)


def test_too_few_rows_are_made_up_by_more_positions():
    sampling = Sampling(positions=10, rows_per_channel=5)
    assert PatchMoments.for_group(reader_of(36), sampling, images=3).positions == 60
    assert PatchMoments.for_group(reader_of(36), sampling, images=100).positions == 10
    assert PatchMoments.for_group(reader_of(12, 36), sampling, images=3).positions == 60
    assert PatchMoments.for_group(reader_of(36), Sampling(positions=None), 3).positions is None


# Rows instead of moments, where these would not fit into memory.


class Wide(nn.Module):
    """A flattened map that two linear layers read, one of them twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.small, self.large = nn.Linear(5, 2), nn.Linear(5 * 16, 2)

    def forward(self, x):
        """Images (N, 3, 6, 6)."""
        x = self.conv(x).relu()
        flat = x.flatten(1)
        return self.small(x.mean((2, 3))) + self.large(flat) + self.large(flat.sigmoid())


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setattr(patches, "LARGEST", 50)
    torch.manual_seed(0)
    return Wide()


def rows_of(net, images, batch, rank=0, world=1):
    group = trace(net, images[:1]).groups["conv"]
    batches = shard(images, rank, world, batch)
    found = collect(net, [group], [PatchMoments], batches, Sampling(), len(images))
    return found["conv"][PatchMoments]


def as_set(rows):
    return {tuple(row) for row in rows.tolist()}


def test_a_large_layer_keeps_its_rows_and_a_small_one_its_moments(wide):
    images = torch.randn(20, 3, 6, 6)
    found = rows_of(wide, images, 8)
    with torch.no_grad():
        x = wide.conv(images).relu()
    U = torch.cat([x.flatten(1), x.flatten(1).sigmoid()])
    large, small = found.of["large.weight"], found.of["small.weight"]
    assert large.second.numel() == 0
    assert large.count == len(large.rows) == 40 == found.rows
    assert large.rows.dtype == torch.float32
    distances = (large.rows[:, None] - U).abs().amax(dim=2)
    assert float(distances.min(dim=0).values.max()) < 1e-4  # every row of U is there
    torch.testing.assert_close(large.first[0], U.double().sum(dim=0), rtol=1e-5, atol=1e-4)
    means = x.mean((2, 3)).double()
    assert small.rows is None
    torch.testing.assert_close(small.second[0], means.T @ means, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("most", [4096, 30, 12])
def test_kept_rows_depend_on_the_images_alone(wide, monkeypatch, most):
    monkeypatch.setattr(patches, "MOST_ROWS", most)
    wide, images = wide.double(), torch.randn(20, 3, 6, 6).double()
    whole = rows_of(wide, images, 20).of["large.weight"]
    for batch in (1, 7):
        found = rows_of(wide, images, batch).of["large.weight"]
        assert as_set(found.rows) == as_set(whole.rows)
        assert found.count == whole.count
        torch.testing.assert_close(found.first, whole.first)
    shares = [rows_of(wide, images, 3, rank, 3).of["large.weight"] for rank in range(3)]
    assert set().union(*(as_set(share.rows) for share in shares)) == as_set(whole.rows)
    assert sum(share.count for share in shares) == whole.count == len(whole.rows)


@pytest.mark.parametrize(("most", "kept"), [(40, 40), (39, 38), (12, 12), (7, 6)])
def test_rows_are_capped_over_all_uses(wide, monkeypatch, most, kept):
    monkeypatch.setattr(patches, "MOST_ROWS", most)
    found = rows_of(wide, torch.randn(20, 3, 6, 6), 7).of["large.weight"]
    assert len(found.rows) == found.count == kept <= most


def test_a_large_convolution_keeps_rows_at_positions_drawn_for_each_image(monkeypatch):
    monkeypatch.setattr(patches, "LARGEST", 50)
    monkeypatch.setattr(patches, "MOST_ROWS", 30)
    net, images = reading(), torch.randn(6, 3, 9, 9).double()
    whole = gather(net, images, Sampling(), batch=6).of["2.weight"]
    U = unfolded(net, images)[0]
    chosen = draw(list(range(6)), 5, 0, "patches", "2.weight", 0)[..., 1]
    U = torch.cat([U[n, (chosen[n] * 25).long()] for n in range(6)])
    torch.testing.assert_close(whole.rows.double(), U, rtol=1e-6, atol=1e-6)
    for batch in (1, 4):
        found = gather(net, images, Sampling(), batch=batch).of["2.weight"]
        assert torch.equal(found.rows, whole.rows)


@pytest.mark.parametrize("batch", [5, 2])
def test_of_each_images_tokens_as_many_rows_are_kept_as_there_is_room_for(monkeypatch, batch):
    """A linear layer on tokens has many rows an image; all images have their share."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.large = nn.Conv2d(3, 8, 1), nn.Linear(8, 3)

        def forward(self, x):
            return self.large(self.conv(x).relu().flatten(2).transpose(1, 2)).mean(1)

    monkeypatch.setattr(patches, "LARGEST", 4)
    monkeypatch.setattr(patches, "MOST_ROWS", 17)
    torch.manual_seed(0)
    net, images = Tokens(), torch.randn(5, 3, 4, 3)
    found = rows_of(net, images, batch).of["large.weight"]
    tokens = net.conv(images).relu().flatten(2).transpose(1, 2).detach()
    assert found.count == len(found.rows) == 15
    torch.testing.assert_close(found.rows, tokens[:, :3].flatten(0, 1), rtol=0, atol=0)
    torch.testing.assert_close(found.first[0], found.rows.double().sum(dim=0))

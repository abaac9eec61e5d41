"""Exact second moments of contributions against loops over all filters and positions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.pruning.statistics import (
    ContributionMoments,
    PatchMoments,
    Sampling,
    collect,
    patches,
    shard,
)
from thinet.pruning.statistics.exact import exact_contributions, row_contributions
from thinet.surgery import trace

ALL = Sampling(positions=None, exact=True)


def brute(weight, x, channels, units, stride=1, padding=0, dilation=1, groups=1):
    """G over every filter and position: outputs with the inputs of one unit after the other."""
    columns = []
    for unit in range(units):
        own = (channels == unit).view(1, -1, *[1] * (x.dim() - 2))
        alone = torch.where(own, x, 0.0)
        if x.dim() == 2:
            columns.append((alone @ weight.T).flatten())
        else:
            y = F.conv2d(alone, weight, None, stride, padding, dilation, groups)
            columns.append(y.flatten())
    X = torch.stack(columns, dim=1)
    return X.T @ X


def rows_of(weight, x, stride=1, padding=0, dilation=1, groups=1):
    """Patches, (groups, rows, P)."""
    U = F.unfold(x, weight.shape[2:], dilation, padding, stride).transpose(1, 2).flatten(0, 1)
    return U.unflatten(1, (groups, -1)).transpose(0, 1)


GEOMETRIES = [
    # kernel, stride, padding, dilation, groups
    (1, 1, 0, 1, 1), (3, 1, 1, 1, 1), (3, 2, 1, 1, 1), (3, 1, 2, 2, 1), ((1, 3), (2, 1), 0, 1, 1),
    (3, 1, 1, 1, 2), (1, 1, 0, 1, 4), (3, 2, 2, 2, 2),
]  # fmt: skip


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_of_a_convolution(geometry):
    kernel, *how, groups = geometry
    generator = torch.Generator().manual_seed(0)
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    x = torch.randn(4, 8, 9, 8, generator=generator).double().relu()
    weight = torch.randn(12, 8 // groups, *size, generator=generator).double()
    per = torch.arange(8 // groups)
    per[1] = 0  # two channels of one unit
    channels = per.repeat(groups)
    units = 8 // groups
    U = rows_of(weight, x, *how, groups)
    found = exact_contributions(weight, U.mT @ U, channels, units, groups)
    expected = brute(weight, x, channels, units, *how, groups)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-9)
    if groups == 1:
        for block in (1, 5, 32):
            found = row_contributions(weight, U[0], channels, units, block)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-9)


def test_of_a_linear_layer_on_flattened_maps_with_foreign_features():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 20, generator=generator).double().relu()
    weight = torch.randn(7, 20, generator=generator).double()
    channels = torch.tensor([-1, 2, 2, 2, 0, 0, 0, -1, 3, 3, 3, 1, 1, 1, -1, -1, 0, 3, 2, 1])
    expected = brute(weight, x, channels, 5)  # nothing reads unit 4
    found = exact_contributions(weight, (x.T @ x)[None], channels, 5)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert not found[4].any()
    for block in (1, 3, 32):
        found = row_contributions(weight, x, channels, 5, block)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


class Several(nn.Module):
    """Channels of ``a`` that a strided, a grouped and a linear layer and a concat reader read."""

    def __init__(self):
        super().__init__()
        self.a, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 3, 3)
        self.strided = nn.Conv2d(4, 5, 3, stride=2)
        self.concat = nn.Conv2d(7, 6, 1)
        self.head = nn.Linear(4 * 36, 2)

    def forward(self, x):
        """Images (N, 3, 8, 8) to (N, 13)."""
        y, other = self.a(x).relu(), self.other(x)
        both = self.concat(torch.cat([other, y], dim=1)).mean((2, 3))
        return torch.cat([self.strided(y).mean((2, 3)), both, self.head(y.flatten(1))], dim=1)


class Grouped(nn.Module):
    """A grouped convolution: unit k is the k-th channel of both groups."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3, padding=1, groups=2)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        """Images (N, 3, 8, 8) to (N, 2)."""
        return self.head(self.b(self.a(x).relu()).mean((2, 3)))


def several():
    torch.manual_seed(0)
    return Several().double()


@pytest.fixture
def pictures():
    return torch.randn(9, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def gather(net, group, images, sampling, kind=ContributionMoments, batch=4):
    batches = shard(images, 0, 1, batch)
    return collect(net, [group], [kind], batches, sampling, len(images))[group.name][kind]


def expected_of_several(net, images):
    with torch.no_grad():
        y, other = net.a(images).relu(), net.other(images)
        grams = {
            # stride 2 leaves 4 positions, the 1 x 1 convolution 36, the linear layer one
            "strided": (brute(net.strided.weight, y, torch.arange(4), 4, 2), 4, 5),
            "concat": (
                brute(
                    net.concat.weight,
                    torch.cat([other, y], dim=1),
                    torch.tensor([-1, -1, -1, 0, 1, 2, 3]),
                    4,
                ),
                36,
                6,
            ),
            "head": (
                brute(net.head.weight, y.flatten(1), torch.arange(4).repeat_interleave(36), 4),
                1,
                2,
            ),
        }
    # Each consumer's mean over its filters and positions, times the rows of the largest.
    rows = 9 * 36
    return sum(rows * gram / (9 * grid * outputs) for gram, grid, outputs in grams.values()), rows


@pytest.mark.parametrize("batch", [1, 4, 9])
def test_of_several_consumers_with_foreign_channels(pictures, batch):
    net = several()
    group = trace(net, pictures[:1]).groups["a"]
    found = gather(net, group, pictures, ALL, batch=batch)
    expected, rows = expected_of_several(net, pictures)
    assert found.rows == rows
    torch.testing.assert_close(found.gram, expected, rtol=1e-10, atol=1e-9)


def test_kept_rows_give_the_same_as_moments(pictures, monkeypatch):
    net = several()
    group = trace(net, pictures[:1]).groups["a"]
    # Of float32 rows; 7 unknowns of the concat reader stay moments, 36 and 144 do not.
    monkeypatch.setattr(patches, "LARGEST", 20)
    found = gather(net, group, pictures, ALL)
    expected, _ = expected_of_several(net, pictures)
    torch.testing.assert_close(found.gram, expected, rtol=1e-5, atol=1e-5)
    kept = gather(net, group, pictures, ALL, PatchMoments).of
    assert {name for name in kept if kept[name].rows is None} == {"concat.weight"}


def test_of_a_grouped_convolution_in_a_network(pictures):
    torch.manual_seed(0)
    net = Grouped().double()
    group = trace(net, pictures[:1]).groups["a"]
    assert group.units == 4
    with torch.no_grad():
        y = net.a(pictures).relu()
    channels = torch.arange(4).repeat(2)
    expected = brute(net.b.weight, y, channels, 4, 1, 1, 1, 2)
    found = gather(net, group, pictures, ALL)
    assert found.rows == 9 * 36
    torch.testing.assert_close(found.gram, expected / 6, rtol=1e-10, atol=1e-9)
    # All units together make the outputs but for the bias.
    outputs = net.b(y) - net.b.bias.view(-1, 1, 1)
    torch.testing.assert_close(found.gram.sum(), outputs.square().sum() / 6)


@pytest.mark.parametrize("make", [Several, Grouped])
def test_sampled_moments_come_near_the_exact_ones(make, pictures):
    torch.manual_seed(0)
    net = make().double()
    group = trace(net, pictures[:1]).groups["a"]
    exact = gather(net, group, pictures, ALL)
    sampled = gather(net, group, pictures, Sampling(locations=4000, rows_per_channel=0))
    assert sampled.rows == 9 * 4000 * len(group.consumers)
    mean = exact.gram / exact.rows / len(group.consumers)
    error = torch.linalg.norm(sampled.gram / sampled.rows - mean) / torch.linalg.norm(mean)
    assert 1e-6 < float(error) < 0.03  # 1 / sqrt(36,000) is 0.005, and rows vary much in size


def test_exact_moments_of_sampled_positions_are_those_of_their_patches(pictures):
    net = several()
    group = trace(net, pictures[:1]).groups["a"]
    sampling = Sampling(positions=3, rows_per_channel=0, exact=True)
    kept = gather(net, group, pictures, sampling, PatchMoments).of["strided.weight"]
    assert kept.count == 9 * 3
    one = gather(net, group, pictures, sampling)
    everything, _ = expected_of_several(net, pictures)
    assert not torch.allclose(one.gram / one.rows, everything / (9 * 36), rtol=1e-3)
    again = gather(net, group, pictures, sampling, batch=1)
    torch.testing.assert_close(again.gram, one.gram, rtol=1e-11, atol=1e-11)

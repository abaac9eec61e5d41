"""Patch moments against torch.nn.functional.unfold."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.errors import ThinetError
from thinet.statistics import PatchMoments, Sampling, collect, shard
from thinet.statistics.contributions import draw
from thinet.surgery import Layer, trace
from thinet.surgery.graph import Consumer

GEOMETRIES = [(1, 1, 0, 1), (1, 2, 0, 1), (3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 2, 2), (5, 2, 2, 1)]


def after_first(net, images):
    with torch.no_grad():
        return F.relu(net[0](images))


@pytest.mark.parametrize("positions", [None, 1000])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_moments_equal_those_of_unfold(geometry, positions):
    kernel, stride, padding, dilation = geometry
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, kernel, stride, padding, dilation)
    ).double()
    images = torch.randn(9, 3, 10, 9).double()
    layer = trace(net, images[:1]).layers["0"]
    sampling = Sampling(positions=positions)
    found = collect(net, layer, [PatchMoments], shard(images, 0, 1, 4), sampling, 9)[PatchMoments]
    U = F.unfold(after_first(net, images), kernel, dilation, padding, stride)
    U = U.transpose(1, 2).flatten(0, 1)
    assert found.rows == len(U)
    torch.testing.assert_close(found.moments["2.weight"], U.T @ U, rtol=1e-10, atol=1e-9)
    # The order of unknowns is that of the flattened weight.
    direct = net[2](after_first(net, images)).permute(0, 2, 3, 1).reshape(-1, 6) - net[2].bias
    torch.testing.assert_close(U @ net[2].weight.flatten(1).T, direct, rtol=1e-9, atol=1e-9)


def test_sampled_positions_are_those_drawn_for_each_image():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1)).double()
    images = torch.randn(5, 3, 10, 10).double()
    layer = trace(net, images[:1]).layers["0"]
    sampling = Sampling(positions=8, rows_per_channel=0, seed=4)
    found = collect(net, layer, [PatchMoments], shard(images, 0, 1, 2), sampling, 5)[PatchMoments]
    U = F.unfold(after_first(net, images), 3, padding=1).transpose(1, 2)
    chosen = draw(list(range(5)), 8, 4, "patches", "2.weight", 0)[..., 1]
    U = torch.cat([U[n][(chosen[n] * 64).long()] for n in range(5)])
    assert found.rows == 40
    torch.testing.assert_close(found.moments["2.weight"], U.T @ U, rtol=1e-10, atol=1e-10)


def test_a_linear_consumer_gives_one_row_an_image(network, images):
    layer = trace(network, images[:1]).layers["conv3"]
    found = collect(network, layer, [PatchMoments], shard(images, 0, 1, 16), Sampling(), 70)
    inputs = []
    handle = network.linear.register_forward_hook(lambda _m, args, _o: inputs.append(args[0]))
    with torch.no_grad():
        network(images)
    handle.remove()
    moments, rows = found[PatchMoments]
    assert rows == 70
    torch.testing.assert_close(
        moments["linear.weight"], inputs[0].T @ inputs[0], rtol=1e-10, atol=1e-9
    )


def layer_reading(unknowns):
    consumer = Consumer("b.weight", torch.arange(4), 1, unknowns)
    return Layer("a", "a.weight", "conv", 4, torch.arange(4), (8, 8), (consumer,))


def test_too_few_rows_are_made_up_by_more_positions():
    sampling = Sampling(positions=10, rows_per_channel=5)
    assert PatchMoments.for_layer(layer_reading(36), sampling, images=3).positions == 60
    assert PatchMoments.for_layer(layer_reading(36), sampling, images=100).positions == 10
    assert PatchMoments.for_layer(layer_reading(36), Sampling(positions=None), 3).positions is None


def test_moments_that_would_not_fit_into_memory_are_refused():
    with pytest.raises(ThinetError, match="reconstruction=scale"):
        PatchMoments.for_layer(layer_reading(25_088), Sampling(), images=100)

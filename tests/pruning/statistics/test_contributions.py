"""Sampled contributions against the outputs that PyTorch computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.base.seeding import derive_seed
from thinet.pruning.statistics import ContributionMoments, Sampling, collect, shard
from thinet.pruning.statistics.contributions import draw, sample_contributions
from thinet.surgery import trace
from thinet.surgery.calls import WeightCall

GEOMETRIES = [
    # kernel, stride, padding, dilation, height, width
    (1, 1, 0, 1, 5, 5), (1, 2, 0, 1, 7, 6), (3, 1, 1, 1, 6, 5), (3, 2, 1, 1, 8, 7),
    (3, 1, 0, 1, 5, 6), (3, 1, 2, 2, 6, 6), (3, 2, 3, 3, 9, 8), (5, 1, 2, 1, 6, 7),
    (5, 3, 1, 1, 9, 9), (7, 2, 3, 1, 11, 8), (7, 1, 3, 1, 4, 4), ((3, 1), (2, 1), (1, 0), 1, 7, 5),
    ((1, 5), 1, (0, 2), (1, 2), 4, 9), ((3, 2), (1, 2), (0, 1), (2, 3), 7, 6),
]  # fmt: skip


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def convolve(x, stride=1, padding=0, dilation=1, groups=1):
    """The call as ATen spells it: one number an axis."""
    return WeightCall(
        kind="conv", weight="w", extras=(), input=x, stride=pair(stride), padding=pair(padding),
        dilation=pair(dilation), groups=groups,
    )  # fmt: skip


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_row_and_the_bias_add_up_to_the_convolution(geometry):
    kernel, stride, padding, dilation, height, width = geometry
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, height, width, generator=generator).double()
    weight = torch.randn(6, 4, *pair(kernel), generator=generator).double()
    bias = torch.randn(6, generator=generator).double()
    output = F.conv2d(x, weight, bias, stride, padding, dilation)
    call = convolve(x, stride, padding, dilation)
    chosen = torch.rand(3, 40, 2, generator=generator, dtype=torch.float64)
    rows = sample_contributions(call, weight, chosen).view(3, 40, 4)
    filters = (chosen[..., 0] * 6).long()
    places = (chosen[..., 1] * output[0, 0].numel()).long()
    assert places.max() > output[0, 0].numel() // 2
    for n in range(3):
        for k in range(40):
            d, p = int(filters[n, k]), int(places[n, k])
            true = output[n, d].flatten()[p]
            torch.testing.assert_close(rows[n, k].sum() + bias[d], true, rtol=1e-10, atol=1e-10)
            # Each column is the part of one channel: all others set to zero.
            alone = torch.zeros_like(x[n : n + 1])
            alone[:, k % 4] = x[n, k % 4]
            part = F.conv2d(alone, weight, None, stride, padding, dilation)[0, d].flatten()[p]
            torch.testing.assert_close(rows[n, k, k % 4], part, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES[::3])
@pytest.mark.parametrize("groups", [2, 3])
def test_a_row_and_the_bias_add_up_to_the_grouped_convolution(geometry, groups):
    kernel, stride, padding, dilation, height, width = geometry
    generator = torch.Generator().manual_seed(groups)
    x = torch.randn(2, 4 * groups, height, width, generator=generator).double()
    weight = torch.randn(5 * groups, 4, *pair(kernel), generator=generator).double()
    bias = torch.randn(5 * groups, generator=generator).double()
    chosen = torch.rand(2, 30, 2, generator=generator, dtype=torch.float64)
    call = convolve(x, stride, padding, dilation, groups)
    rows = sample_contributions(call, weight, chosen).view(2, 30, 4)

    def outputs(inputs, added):
        y = F.conv2d(inputs, weight, added, stride, padding, dilation, groups).flatten(2)
        filters = (chosen[..., 0] * 5 * groups).long()
        places = (chosen[..., 1] * y.shape[2]).long()
        return torch.stack([y[n, filters[n], places[n]] for n in range(2)]), filters

    true, filters = outputs(x, bias)
    assert filters.unique().numel() > 3 * groups
    torch.testing.assert_close(rows.sum(dim=2) + bias[filters], true, rtol=1e-10, atol=1e-10)
    for within in range(4):  # column k is the part of the k-th channel of the filter's own group
        alone = torch.zeros_like(x)
        alone[:, within::4] = x[:, within::4]
        torch.testing.assert_close(rows[..., within], outputs(alone, None)[0])


def test_a_row_and_the_bias_add_up_to_the_linear_layer():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 7, generator=generator).double()
    weight = torch.randn(3, 7, generator=generator).double()
    chosen = torch.rand(5, 20, 2, generator=generator, dtype=torch.float64)
    rows = sample_contributions(WeightCall("linear", "w", (), x), weight, chosen).view(5, 20, 7)
    output = x @ weight.T
    for n in range(5):
        for k in range(20):
            true = output[n, int(chosen[n, k, 0] * 3)]
            torch.testing.assert_close(rows[n, k].sum(), true, rtol=1e-12, atol=1e-12)


def test_every_filter_and_place_is_reached():
    call = convolve(torch.ones(1, 1, 3, 3), padding=1)
    # A filter that counts how many taps see the image, times its own number.
    weight = torch.arange(1.0, 5).view(4, 1, 1, 1).expand(4, 1, 3, 3).contiguous()
    rows = sample_contributions(call, weight, draw([0], 4000, "test"))[:, 0]
    assert set(rows.tolist()) == {d * taps for d in (1, 2, 3, 4) for taps in (4, 6, 9)}
    corners = float((rows / 4 == 4).float().mean())  # filter 4 in one of four corners
    assert corners == pytest.approx(1 / 4 * 4 / 9, abs=0.02)


def test_draws_depend_on_the_image_and_the_purpose_alone():
    some, other = draw([5, 2, 9], 4, "a"), draw([9, 1], 4, "a")
    assert torch.equal(some[2], other[0])
    assert not torch.equal(some[0], some[1])
    assert not torch.equal(draw([5], 4, "a"), draw([5], 4, "b"))
    assert torch.equal(draw([5], 4, "a"), draw([5], 9, "a")[:, :4])
    assert float(draw(list(range(200)), 50, 1).mean()) == pytest.approx(0.5, abs=0.01)
    assert 0 <= derive_seed("a", 5) < 2**63


def contribution_rows(network, images, group, sampling):
    """X of a network's consumers, one image at a time, by masking the consumer's real input."""
    statistic = ContributionMoments.for_group(group, sampling, len(images))
    (consumer,) = group.consumers
    module = network.get_submodule(consumer.name)
    inputs = []
    handle = module.register_forward_hook(lambda _m, args, _out: inputs.append(args[0]))
    with torch.no_grad():
        network(images)
    handle.remove()
    rows = []
    for n, x in enumerate(inputs[0]):
        chosen = draw([n], statistic.locations, sampling.seed, "contributions", consumer.weight, 0)
        columns = []
        for channel in range(group.units):
            own = (consumer.channels == channel).view(-1, *[1] * (x.dim() - 1))
            with torch.no_grad():
                y = (module(torch.where(own, x, 0.0)[None]) - module(torch.zeros_like(x)[None]))[0]
            y = y.flatten(1) if y.dim() > 1 else y[:, None]
            filters = (chosen[0, :, 0] * y.shape[0]).long()
            columns.append(y[filters, (chosen[0, :, 1] * y.shape[1]).long()])
        rows.append(torch.stack(columns, dim=1))
    return torch.cat(rows)


def moments(network, images, name, sampling, batch=64):
    group = trace(network, images[:1]).groups[name]
    batches = shard(images, 0, 1, batch)
    found = collect(network, [group], [ContributionMoments], batches, sampling, len(images))
    return found[name][ContributionMoments]


@pytest.mark.parametrize("name", ["conv1", "conv2", "conv3"])
def test_moments_of_a_network_equal_those_of_stored_rows(network, images, name):
    """conv1 to a strided convolution, conv2 to a 1x1, conv3 flattened: 9 features a channel."""
    group = trace(network, images[:1]).groups[name]
    sampling = Sampling(locations=7, seed=3)
    gram, rows = moments(network, images[:20], name, sampling, batch=8)
    X = contribution_rows(network, images[:20], group, sampling)
    assert rows == len(X) == 140
    torch.testing.assert_close(gram, X.T @ X, rtol=1e-10, atol=1e-10)


def test_pooled_features_are_mean_activations_times_weights():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(4, 6),
    ).double().eval()  # fmt: skip
    images = torch.randn(10, 3, 7, 7).double()
    found = moments(net, images, "0", Sampling(locations=5), batch=4)
    means = net[1](net[0](images)).mean(dim=(2, 3))
    chosen = draw(list(range(10)), 5, 0, "contributions", "4.weight", 0)
    X = torch.cat([means[n] * net[4].weight[(chosen[n, :, 0] * 6).long()] for n in range(10)])
    torch.testing.assert_close(found.gram, X.T @ X, rtol=1e-10, atol=1e-10)


def test_features_of_a_flattened_map_are_grouped_by_channel():
    """49 features a channel, as between conv5_3 and fc6 of VGG-16."""
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(5 * 49, 3)
    ).double()
    images = torch.randn(6, 3, 7, 7).double()
    group = trace(net, images[:1]).groups["0"]
    assert group.consumers[0].channels.bincount().tolist() == [49] * 5
    found = moments(net, images, "0", Sampling(locations=9))
    X = contribution_rows(net, images, group, Sampling(locations=9))
    torch.testing.assert_close(found.gram, X.T @ X, rtol=1e-10, atol=1e-10)


def test_too_few_rows_are_made_up_by_more_locations(network, images):
    group = trace(network, images[:1]).groups["conv2"]
    statistic = ContributionMoments.for_group(group, Sampling(2, rows_per_channel=5), images=4)
    assert statistic.locations == 10  # 5 rows for each of 8 channels from 4 images
    statistic = ContributionMoments.for_group(group, Sampling(20, rows_per_channel=5), images=4)
    assert statistic.locations == 20
    statistic = ContributionMoments.for_group(group, Sampling(2, rows_per_channel=0), images=4)
    assert statistic.locations == 2
    (reader,) = group.consumers
    group = replace(group, consumers=(replace(reader, calls=2), reader))  # three rows a location
    statistic = ContributionMoments.for_group(group, Sampling(2, rows_per_channel=5), images=4)
    assert statistic.locations == 4


def test_rows_in_single_precision_are_summed_in_double():
    """Powers of two as weights: the rows themselves are exact, so that only the sums round."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 1, bias=False)).eval()
    with torch.no_grad():
        net[2].weight.copy_(2.0 ** torch.randint(-3, 4, net[2].weight.shape))
    images = torch.randn(12, 3, 8, 8)
    group, sampling = trace(net, images[:1]).groups["0"], Sampling(locations=30)
    gram, _ = moments(net, images, "0", sampling)
    X = contribution_rows(net, images, group, sampling).double()
    torch.testing.assert_close(gram, X.T @ X, rtol=1e-12, atol=1e-12)

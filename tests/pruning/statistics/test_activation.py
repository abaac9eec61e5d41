"""Mean activations against what forward hooks capture."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from thinet.pruning.statistics import Sampling, collect, shard
from thinet.pruning.statistics.activation import MeanActivation
from thinet.surgery import Consumer, trace
from thinet.surgery.calls import WeightCall


def feed(statistic, weight, x, kind="conv"):
    call = WeightCall(kind=kind, weight=weight, extras=(), input=x)
    statistic.update(call, torch.empty(0), torch.empty(0), list(range(len(x))), 0)


def test_one_consumer_reads_what_the_hook_sees(network, images):
    seen = []
    handle = network.conv2.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        network(images)
    handle.remove()
    consumer = Consumer("conv2.weight", torch.arange(6), 1, 54)
    for batch in (1, 7, 70):
        statistic = MeanActivation(6, (consumer,))
        for part in seen[0].split(batch):
            feed(statistic, "conv2.weight", part)
        found = statistic.summary()
        torch.testing.assert_close(found.mean, seen[0].abs().mean(dim=(0, 2, 3)))
        assert found.rows == seen[0][:, 0].numel()
    assert float(found.mean.std()) > 0.05


def test_signs_do_not_cancel():
    x = torch.tensor([[[[-3.0, 3.0]], [[1.0, 1.0]]]])
    statistic = MeanActivation(2, (Consumer("w", torch.arange(2), 1, 2),))
    feed(statistic, "w", x)
    assert statistic.summary().mean.tolist() == [3.0, 1.0]


def test_inputs_of_a_unit_are_averaged_and_others_left_out():
    x = torch.arange(1.0, 13).view(2, 6)  # a flattened map: two features a unit, one of nobody
    statistic = MeanActivation(3, (Consumer("w", torch.tensor([1, 1, 0, 0, -1, 1]), 1, 6),))
    feed(statistic, "w", x, "linear")
    expected = [x[:, 2:4].mean(), x[:, [0, 1, 5]].mean(), 0.0]
    torch.testing.assert_close(statistic.summary().mean, torch.tensor(expected).double())


def test_consumers_count_alike_and_only_where_they_read():
    large, small = torch.rand(2, 3, 8, 8) * 10, torch.rand(2, 2)
    consumers = (
        Consumer("a", torch.tensor([0, 1, 2]), 1, 3),
        Consumer("b", torch.tensor([2, 0]), 1, 2),
    )
    statistic = MeanActivation(4, consumers)
    feed(statistic, "a", large)
    feed(statistic, "b", small, "linear")
    a, b = large.double().mean(dim=(0, 2, 3)), small.double().mean(dim=0)
    expected = torch.stack([(a[0] + b[1]) / 2, a[1], (a[2] + b[0]) / 2, torch.zeros(())])
    torch.testing.assert_close(statistic.summary().mean, expected.double())
    assert statistic.watched == {"a": 1, "b": 1}


def test_what_is_not_finite_shows():
    statistic = MeanActivation(2, (Consumer("w", torch.arange(2), 1, 2),))
    feed(statistic, "w", torch.tensor([[[[1.0]], [[torch.nan]]]]))
    assert not bool(torch.isfinite(statistic.total).all())


def test_states_of_two_processes_add_up():
    x = torch.rand(6, 3, 4, 4)
    consumers = (Consumer("w", torch.arange(3), 1, 3),)
    whole, parts = MeanActivation(3, consumers), [MeanActivation(3, consumers) for _ in range(2)]
    feed(whole, "w", x)
    for part, images in zip(parts, (x[:2], x[2:]), strict=True):
        feed(part, "w", images)
    parts[0].total += parts[1].total
    parts[0].count += parts[1].count
    torch.testing.assert_close(parts[0].summary().mean, whole.summary().mean)


def test_half_precision_is_summed_in_double():
    x = F.relu(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))).half()
    statistic = MeanActivation(3, (Consumer("w", torch.arange(3), 1, 3),))
    feed(statistic, "w", x)
    torch.testing.assert_close(statistic.summary().mean, x.double().mean(dim=(0, 2, 3)))


def test_of_a_group(network, images):
    group = trace(network, images[:1]).groups["conv1"]
    batches = shard(images, 0, 1, 16)
    found = collect(network, [group], [MeanActivation], batches, Sampling(), len(images))
    with torch.no_grad():
        expected = F.relu(network.bn1(network.conv1(images))).mean(dim=(0, 2, 3))
    torch.testing.assert_close(found["conv1"][MeanActivation].mean, expected)

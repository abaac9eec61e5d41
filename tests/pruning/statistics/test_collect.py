"""The collection pass: the same statistics however the images are cut up."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import unfold

from thinet.base.errors import ThinetError
from thinet.pruning.criteria import APoZ, Candidates, ThiNet, ThiNetOMP
from thinet.pruning.statistics import (
    ContributionMoments,
    PatchMoments,
    Sampling,
    ZeroFraction,
    collect,
    shard,
)
from thinet.pruning.statistics.activation import MeanActivation
from thinet.pruning.statistics.contributions import draw, sample_contributions
from thinet.surgery import trace
from thinet.surgery.calls import WeightCall

KINDS = [ContributionMoments, PatchMoments, ZeroFraction]
SAMPLING = Sampling(locations=6, positions=5)
LAYERS = ["conv1", "conv2", "conv3"]


def gather(network, images, name, batch, rank=0, world=1):
    group = trace(network, images[:1]).groups[name]
    batches = shard(images, rank, world, batch)
    return collect(network, [group], KINDS, batches, SAMPLING, len(images))[name]


def numbers(evidence):
    (moments,) = evidence[PatchMoments].of.values()
    zeros = evidence[ZeroFraction].fraction * evidence[ZeroFraction].rows
    return [evidence[ContributionMoments].gram, moments.second, moments.first, zeros]


@pytest.mark.parametrize("name", LAYERS)
def test_batch_size_does_not_matter(network, images, name):
    reference = gather(network, images, name, 64)
    candidates = Candidates.of(network, trace(network, images[:1]).groups[name])
    for batch in (1, 7, 70):
        found = gather(network, images, name, batch)
        for ours, theirs in zip(numbers(found), numbers(reference), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
        assert found.rows() == reference.rows()
        for criterion in (ThiNet(), ThiNetOMP(), APoZ()):
            kept = [criterion.rank(candidates, e, 0)[:3].sort().values for e in (found, reference)]
            assert torch.equal(*kept)


@pytest.mark.parametrize("name", LAYERS)
def test_shares_of_the_processes_add_up(network, images, name):
    reference = gather(network, images, name, 64)
    shares = [gather(network, images, name, 7, rank, 3) for rank in range(3)]
    for whole, parts in zip(
        numbers(reference), zip(*(numbers(share) for share in shares), strict=True), strict=True
    ):
        torch.testing.assert_close(sum(parts), whole, rtol=1e-11, atol=1e-11)
    assert sum(share[ContributionMoments].rows for share in shares) == 70 * 6
    assert reference[ContributionMoments].rows == 70 * 6


def test_shard_deals_the_images_in_turn():
    images = torch.arange(11.0).view(11, 1, 1, 1)
    seen = [list(shard(images, rank, 3, 2)) for rank in range(3)]
    assert [number for _, part in seen[1] for number in part] == [1, 4, 7, 10]
    assert [len(batch) for batch, _ in seen[2]] == [2, 1]
    for batches in seen:
        for batch, part in batches:
            assert batch.flatten().tolist() == part
    assert sorted(n for batches in seen for _, part in batches for n in part) == list(range(11))


def test_the_seed_changes_the_sample(network, images):
    group = trace(network, images[:1]).groups["conv2"]
    kinds = [ContributionMoments]
    grams = [
        collect(network, [group], kinds, shard(images, 0, 1, 70), Sampling(seed=seed), 70)["conv2"][
            ContributionMoments
        ].gram
        for seed in (0, 0, 1)
    ]
    assert torch.equal(grams[0], grams[1])
    assert not torch.allclose(grams[0], grams[2])


def test_moments_are_double_also_for_a_single_precision_network(network, images):
    reference = numbers(gather(network, images, "conv2", 64))
    found = numbers(gather(network.float(), images.float(), "conv2", 64))
    for single, double in zip(found, reference, strict=True):
        assert single.dtype == torch.float64
        torch.testing.assert_close(single, double, rtol=1e-4, atol=1e-3)


def test_the_network_is_left_as_it_was_and_runs_only_as_far_as_needed(network, images):
    network.train()
    network.bn1.eval()
    modes = [module.training for module in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    ran = []
    network.linear.register_forward_hook(lambda *_: ran.append("linear"))
    network.conv3.register_forward_hook(lambda *_: ran.append("conv3"))
    group = trace(network, images[:1]).groups["conv1"]
    ran.clear()
    collect(network, [group], KINDS, shard(images, 0, 1, 64), SAMPLING, 70)
    assert ran == []  # conv1 is read by conv2, where the pass ends
    assert [module.training for module in network.modules()] == modes
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_without_needs_the_network_does_not_run(network, images):
    group = trace(network, images[:1]).groups["conv1"]
    network.register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
    found = collect(network, [group], [], shard(images, 0, 1, 64), SAMPLING, 70)
    assert found["conv1"].rows() is None


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_not_finite_are_reported(network, images, kind):
    group = trace(network, images[:1]).groups["conv2"]
    network.conv1.weight.data[0, 0, 0, 0] = torch.inf
    with pytest.raises(ThinetError, match="conv2 feeds are not finite"):
        collect(network, [group], [kind], shard(images, 0, 1, 64), SAMPLING, 70)


def test_a_layer_used_twice_is_sampled_in_both_uses(images):
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 3)

        def forward(self, x):
            return self.b(self.a(x)) + self.b(self.a(x).sigmoid())

    torch.manual_seed(0)
    net = Twice().double()
    group = trace(net, images[:1]).groups["a"]
    assert group.consumers[0].calls == 2
    found = collect(
        net, [group], [ContributionMoments, PatchMoments], shard(images, 0, 1, 64),
        Sampling(locations=3, positions=None), 70,
    )["a"]  # fmt: skip
    assert found[ContributionMoments].rows == 2 * 3 * 70
    assert found[PatchMoments].rows == 2 * 4 * 70
    inputs = [net.a(images), net.a(images).sigmoid()]
    U = torch.cat([unfold(x, 3).transpose(1, 2).flatten(0, 1) for x in inputs])
    torch.testing.assert_close(found[PatchMoments].of["b.weight"].second[0], U.T @ U)
    X = []
    for turn, x in enumerate(inputs):  # each use draws filters and places of its own
        chosen = draw(list(range(70)), 3, 0, "contributions", "b.weight", turn)
        X.append(sample_contributions(WeightCall("conv", "", (), x), net.b.weight, chosen))
    X = torch.cat(X)
    torch.testing.assert_close(found[ContributionMoments].gram, X.T @ X)


@pytest.mark.parametrize(
    "settings",
    [{"locations": 0}, {"locations": 2.5}, {"positions": -1}, {"rows_per_channel": -1}],
)
def test_senseless_sampling_is_refused(settings):
    with pytest.raises(ThinetError, match=f"calibration.{next(iter(settings))}="):
        Sampling(**settings)


@pytest.mark.parametrize("turned", [False, True])
def test_groups_collected_together_see_what_each_sees_alone(turned):
    """A layer that is used twice is awaited twice by those it reads, once by its own zeros."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.d = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.b, self.c = nn.Conv2d(4, 5, 1), nn.Conv2d(5, 2, 1)

        def forward(self, x):
            both = [self.b(self.a(x).relu()).relu(), self.b(self.d(x).relu()).relu()]
            return self.c(both[0]) + self.c(both[1])

    torch.manual_seed(0)
    net, images = Twice().double().eval(), torch.randn(6, 3, 4, 4).double()
    graph, kinds = trace(net, images[:1]), [MeanActivation, ZeroFraction]
    groups = [graph.groups[name] for name in ("a", "b")]

    def found(some):
        return collect(net, some, kinds, shard(images, 0, 1, 6), Sampling(), 6)

    together = found(groups[::-1] if turned else groups)
    for group in groups:
        alone = found([group])[group.name]
        for kind in kinds:
            for one, other in zip(alone[kind], together[group.name][kind], strict=True):
                torch.testing.assert_close(torch.as_tensor(other), torch.as_tensor(one))

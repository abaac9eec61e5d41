"""Criteria that give each unit a score of its own, against numpy, scipy and Torch-Pruning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch_pruning as tp
from scipy.spatial.distance import cdist
from torch import nn

from thinet.base.errors import ThinetError
from thinet.pruning.criteria import (
    FPGM,
    L2,
    ActivationMean,
    APoZ,
    BNScale,
    Candidates,
    Part,
    Random,
    Taylor,
    WeightSum,
    descending,
    per_unit,
)
from thinet.pruning.statistics import Evidence, ZeroFraction
from thinet.pruning.statistics.activation import Activations, MeanActivation
from thinet.pruning.statistics.gradients import GateGradients, Gates
from thinet.pruning.statistics.zeros import Zeros

C = 12
NOTHING = Evidence()


def layer(*weights, scales=()):
    units = len(weights[0])
    return Candidates(
        "conv",
        units,
        tuple(Part(weight, torch.arange(units)) for weight in weights),
        tuple(Part(scale, torch.arange(units)) for scale in scales),
    )


@pytest.fixture
def weight():
    return torch.randn(C, 4, 3, 3, generator=torch.Generator().manual_seed(1))


def by(scores):
    return np.argsort(-np.asarray(scores), kind="stable").tolist()


def test_descending_puts_the_highest_first_and_of_equal_ones_the_first():
    assert descending(torch.tensor([1.0, 3, 2, 3, 2, 2])).tolist() == [1, 3, 2, 4, 5, 0]
    assert descending(torch.zeros(300)).tolist() == list(range(300))


def test_filters_of_a_unit_are_averaged_and_layers_count_alike():
    sizes = torch.tensor([1.0, 2, 3, 5])
    one = Part(sizes[:, None], torch.tensor([0, 1, 0, -1]))
    assert per_unit([one], 3, lambda rows: rows.sum(dim=1)).tolist() == [2.0, 2.0, 0.0]
    two = Part(1000 * torch.tensor([[3.0], [1.0]]), torch.tensor([1, 2]))
    found = per_unit([one, two], 3, lambda rows: rows.sum(dim=1))
    torch.testing.assert_close(found, torch.tensor([1.0, 1.25, 0.5]).double())


@pytest.mark.parametrize(("criterion", "order"), [(WeightSum(), 1), (L2(), 2)])
def test_norms_of_the_filters(criterion, order, weight):
    expected = np.linalg.norm(weight.numpy().reshape(C, -1), ord=order, axis=1)
    assert criterion.rank(layer(weight), NOTHING, 0).tolist() == by(expected)


def test_weight_sum_and_l2_differ_where_they_should():
    spiky, flat = torch.tensor([3.0, 0, 0, 0]), torch.tensor([1.0, 1, 1, 1])
    candidates = layer(torch.stack([spiky, flat]))
    assert WeightSum().rank(candidates, NOTHING, 0).tolist() == [1, 0]
    assert L2().rank(candidates, NOTHING, 0).tolist() == [0, 1]


def test_fpgm_is_the_sum_of_distances(weight):
    flat = weight.double().numpy().reshape(C, -1)
    expected = cdist(flat, flat).sum(axis=1)
    assert FPGM().rank(layer(weight), NOTHING, 0).tolist() == by(expected)


def test_fpgm_of_several_filters_a_unit_looks_at_their_whole_layer(weight):
    units = torch.arange(C) % 4
    flat = weight.double().numpy().reshape(C, -1)
    distances = cdist(flat, flat).sum(axis=1)
    expected = [distances[units.numpy() == unit].mean() for unit in range(4)]
    candidates = Candidates("conv", 4, (Part(weight, units),))
    assert FPGM().rank(candidates, NOTHING, 0).tolist() == by(expected)


def test_fpgm_with_duplicates_drops_what_others_can_replace(weight):
    weight[[3, 5, 9]] = weight[2].clone()  # four equal filters are near the median
    ranked = FPGM().rank(layer(weight), NOTHING, 0).tolist()
    assert [unit for unit in ranked if unit in (2, 3, 5, 9)] == [2, 3, 5, 9]
    weight[:] = torch.arange(1.0, 1 + C)[:, None, None, None]  # on a line: its ends stay longest
    ranked = FPGM().rank(layer(weight), NOTHING, 0).tolist()
    assert set(ranked[:4]) == {0, 1, C - 2, C - 1}
    assert set(ranked[-2:]) == {5, 6}


def test_fpgm_drops_zeros_even_where_they_lie_far_from_the_rest(weight):
    weight += 10
    weight[4] = 0.0
    assert FPGM().rank(layer(weight), NOTHING, 0)[-1] == 4


def test_bn_scale_drops_filters_of_zeros_whatever_their_gamma(weight):
    weight[4] = 0.0
    gamma = torch.ones(C)
    gamma[4] = 9.0
    assert BNScale().rank(layer(weight, scales=[gamma]), NOTHING, 0)[-1] == 4


def test_bn_scale_is_the_absolute_gamma(weight):
    gamma = torch.randn(C, generator=torch.Generator().manual_seed(2))
    found = BNScale().rank(layer(weight, scales=[gamma]), NOTHING, 0)
    assert found.tolist() == by(gamma.abs())
    BNScale().check(layer(weight, scales=[gamma]))


def test_bn_scale_refuses_units_without_a_batchnorm(weight):
    with pytest.raises(ThinetError, match=r"BatchNorm behind conv.*criterion=thinet"):
        BNScale().check(layer(weight))
    partly = Candidates("conv", 3, (), (Part(torch.ones(3), torch.tensor([0, 2, -1])),))
    with pytest.raises(ThinetError, match="BatchNorm"):
        BNScale().check(partly)


def test_statistics_are_taken_as_they_are(weight):
    values = torch.rand(C, generator=torch.Generator().manual_seed(3)).double()
    evidence = Evidence({
        ZeroFraction: Zeros(1 - values, 1),
        MeanActivation: Activations(values, 1),
        GateGradients: Gates(values, 1),
    })  # fmt: skip
    for criterion in (APoZ(), ActivationMean(), Taylor()):
        assert criterion.rank(layer(weight), evidence, 0).tolist() == by(values)


def test_random_is_uniform_and_follows_its_seed(weight):
    draws = [tuple(Random().rank(layer(weight), NOTHING, seed)[:3].tolist()) for seed in range(400)]
    assert draws[7] == tuple(Random().rank(layer(weight), NOTHING, 7)[:3].tolist())
    assert len(set(draws)) > 300  # of 1320 possible
    counts = np.bincount(np.array(draws).ravel(), minlength=C)
    assert counts.min() > 60  # each is expected 100 times, standard deviation 8.7
    assert counts.max() < 140


@pytest.mark.parametrize(
    ("criterion", "importance", "prune"),
    [
        (WeightSum(), tp.importance.MagnitudeImportance(1, "first", None), "conv"),
        (L2(), tp.importance.MagnitudeImportance(2, "first", None), "conv"),
        (FPGM(), tp.importance.FPGMImportance(1, "first", None), "conv"),
        (BNScale(), tp.importance.BNScaleImportance("first", None), "bn"),
    ],
    ids=["weight_sum", "l2", "fpgm", "bn_scale"],
)
def test_torch_pruning_ranks_the_filters_of_a_layer_alike(criterion, importance, prune):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3))
    # Its FPGM takes distances of absolute values: the same where weights are not negative.
    nn.init.uniform_(net[0].weight, 0, 1)
    nn.init.normal_(net[1].weight)
    graph = tp.DependencyGraph().build_dependency(net, torch.randn(1, 3, 8, 8))
    root, function = {
        "conv": (net[0], tp.prune_conv_out_channels),
        "bn": (net[1], tp.prune_batchnorm_out_channels),
    }[prune]
    scores = importance(graph.get_pruning_group(root, function, list(range(16))))
    candidates = layer(net[0].weight.detach(), scales=[net[1].weight.detach()])
    assert criterion.rank(candidates, NOTHING, 0).tolist() == by(scores)

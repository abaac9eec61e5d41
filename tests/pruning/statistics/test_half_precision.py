"""Statistics of networks of half precision are taken in float32 at least.

float16 ends at 65,504 and bfloat16 has eight bits: products and sums of activations do not fit.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import thinet
from thinet.base.errors import ThinetError
from thinet.pruning.group import Calibration, prune_groups_
from thinet.pruning.reconstruction import NoReconstruction, Reconstruction, Refit, Scale
from thinet.pruning.reconstruction.reconstruction import Correction
from thinet.pruning.statistics import (
    ContributionMoments,
    GateGradients,
    PatchMoments,
    Reference,
    Sampling,
    collect,
    shard,
)
from thinet.pruning.statistics.activation import MeanActivation
from thinet.pruning.statistics.zeros import ZeroFraction
from thinet.surgery import trace

LABELS = torch.arange(24) % 5


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 10, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 5),
    ).eval()  # fmt: skip


@torch.no_grad()
def loud():
    """Filters come in pairs whose contributions pass 65,504 and cancel, so that no output does."""
    net = network()
    first, second = net[0], net[2]
    first.weight.mul_(1500)
    first.weight[1::2] = first.weight[::2]
    first.bias[1::2] = first.bias[::2]
    second.weight.mul_(500).abs_()
    second.weight[:, 1::2] = -0.98 * second.weight[:, ::2]
    net[6].weight.mul_(1e-4)
    return net


def numbers(summary):
    """The tensors of a summary, one after the other."""
    found = []
    for value in summary:
        if isinstance(value, torch.Tensor):
            found.append(value.double())
        elif isinstance(value, dict):
            for moments in value.values():
                kept = (getattr(moments, name) for name in ("second", "first", "cross", "off"))
                found += [one.double() for one in kept if one is not None]
    return found


@pytest.mark.parametrize(
    "kind", [ContributionMoments, PatchMoments, MeanActivation, ZeroFraction, GateGradients]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_are_those_of_the_same_network_in_float64(kind, dtype):
    half = loud().to(dtype)
    images = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact, pictures = copy.deepcopy(half).double(), images.double()
    found = []
    for net, some in ((half, images), (exact, pictures)):
        group = trace(net, some[:1]).groups["0"]
        batches = shard(some, 0, 1, 8)
        reference = Reference(net) if kind is PatchMoments else None
        evidence = collect(net, [group], [kind], batches, Sampling(), 24, LABELS, reference)
        found.append(numbers(evidence["0"][kind]))
    rough = 3e-2 if dtype == torch.bfloat16 else 1e-2  # of the activations themselves
    for ours, wanted in zip(*found, strict=True):
        assert bool(ours.isfinite().all())
        assert (ours - wanted).abs().max() <= rough * wanted.abs().max()


def test_the_network_of_these_tests_is_loud_enough():
    net, images = loud().half(), torch.randn(24, 3, 8, 8).half()
    inputs = net[1](net[0](images))
    assert bool(inputs.isfinite().all())
    assert bool(net[2](inputs).isfinite().all())
    parts = inputs[:, 0, :3, :3].detach().double() * net[2].weight[0, 0].detach()
    assert float(parts.sum(dim=(1, 2)).max()) > torch.finfo(torch.float16).max


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "reconstruction", [NoReconstruction(), Scale(), Refit(), Refit("original")]
)
def test_a_network_of_half_precision_keeps_the_filters_of_the_same_in_float64(
    dtype, reconstruction
):
    images = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    half = thinet.prune(network().to(dtype), [images.to(dtype)], reconstruction=reconstruction)
    exact = network().to(dtype).double()
    wanted = thinet.prune(exact, [images.to(dtype).double()], reconstruction=reconstruction)
    assert [one.kept for one in half.layers] == [one.kept for one in wanted.layers]
    assert half.model[0].weight.dtype == dtype
    assert all(bool(tensor.isfinite().all()) for tensor in half.model.state_dict().values())


@dataclass(frozen=True)
class Huge(Reconstruction):
    weights: float
    shift: float

    def correct(self, weight, consumer, keep, evidence):
        shift = torch.full((len(weight),), self.shift, dtype=torch.float64)
        return Correction((weight.double() * self.weights).to(weight), shift)

    def loss(self, readers, keep, evidence):
        return 0.0


@pytest.mark.parametrize("huge", [Huge(1e9, 0.0), Huge(1.0, 1e9)], ids=["weights", "bias"])
def test_a_correction_that_does_not_fit_is_refused(huge):
    net, images = network().half(), torch.randn(4, 3, 8, 8).half()
    graph = trace(net, images[:1])
    criterion = thinet.pruning.criteria.WeightSum()
    with pytest.raises(ThinetError, match=r"corrected weights of 2 .*float16"):
        prune_groups_(net, graph, {"0": 6}, criterion, huge, Calibration(list(images)))

"""What a reconstruction says that a cut loses, against outputs of the network that was cut."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from thinet.pruning.criteria import Candidates, Random
from thinet.pruning.group import Calibration, prune_groups_
from thinet.pruning.reconstruction import NoReconstruction, Reconstruction, Refit, Scale
from thinet.pruning.statistics import Sampling
from thinet.surgery import trace

ALL = Sampling(positions=None, exact=True)
RECONSTRUCTIONS = [NoReconstruction(), Scale(), Refit(intercept=False), Refit(ridge=0.01)]


@torch.no_grad()
def outputs(net: nn.Module, name: str, images: torch.Tensor, shifted: bool) -> torch.Tensor:
    """What a layer puts out, (rows, outputs); less the BatchNorm mean or plus the bias."""
    seen = []
    layer = net.get_submodule(name)
    handle = layer.register_forward_hook(lambda _m, _a, out: seen.append(out.clone()))
    net(images)
    handle.remove()
    rows = seen[0].flatten(2).transpose(1, 2).flatten(0, 1) if seen[0].dim() > 2 else seen[0]
    if layer.bias is not None and not shifted:
        rows = rows - layer.bias
    return rows - net.bn.running_mean if shifted and name == "normed" else rows


def cut(net, images, count, reconstruction, prefix="stem"):
    """The loss that was foretold, and the network after the cut."""
    calibration = Calibration(list(images), ALL, batch=7)
    graph = trace(net, images[:1])
    group = graph.groups[prefix]
    evidence = calibration.collect(net, [group], reconstruction.loss_needs)[prefix]
    candidates = Candidates.of(net, group)
    slim = copy.deepcopy(net)
    (record,), _ = prune_groups_(
        slim, graph, {prefix: count}, Random(), reconstruction, calibration
    )
    keep = [group.layers[0].units[kept].item() for kept in record.kept]
    keep = torch.tensor(sorted(set(keep)))
    return reconstruction.loss(candidates.readers, keep, evidence), slim


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
def test_equals_what_several_consumers_really_lose(plain, images, reconstruction, count):
    """Units of two filters each, because of the grouped reader."""
    foretold, slim = cut(plain, images, count, reconstruction)
    takes = isinstance(reconstruction, Refit) and reconstruction.intercept
    left = whole = 0.0
    for name in ("normed", "grouped", "head"):
        before, after = (outputs(net, name, images, takes) for net in (plain, slim))
        lost, energy = (before - after).square(), before.square()
        if takes:  # what a constant explains is no loss, and no gain either
            energy = (before - before.mean(dim=0)).square()
        # A refit counts all outputs of a layer, contributions count the mean of its outputs.
        fold = 1.0 if isinstance(reconstruction, Refit) else 1 / before.shape[1]
        left += fold * float(lost.sum(dim=1).mean())
        whole += fold * float(energy.sum(dim=1).mean())
    assert foretold == pytest.approx(left / whole, rel=1e-8)
    assert foretold > 1e-3


def test_each_reconstruction_loses_less_than_the_simpler_one(plain, images):
    sequence = [NoReconstruction(), Scale(), Refit(ridge=1e-9, intercept=False)]
    plain.grouped.weight.data.zero_()  # one dense layer, one measure
    plain.head.weight.data.zero_()
    losses = [cut(plain, images, 2, one)[0] for one in sequence]
    assert losses[0] > losses[1] > losses[2] > 0


@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
def test_keeping_everything_loses_nothing(plain, images, reconstruction: Reconstruction):
    group = trace(plain, images[:1]).groups["stem"]
    calibration = Calibration(list(images), ALL)
    evidence = calibration.collect(plain, [group], reconstruction.loss_needs)["stem"]
    readers = Candidates.of(plain, group).readers
    assert reconstruction.loss(readers, torch.arange(4), evidence) == 0.0
    assert reconstruction.loss(readers, torch.arange(1), evidence) > 0.0


def test_means_are_kept_where_a_constant_is_taken_up(plain, images):
    """By a bias as well as by the running mean of a BatchNorm."""
    slim = cut(plain, images, 2, Refit())[1]
    assert torch.equal(slim.bn.running_var, plain.bn.running_var)
    assert not torch.allclose(slim.bn.running_mean, plain.bn.running_mean, rtol=1e-3)
    assert not torch.allclose(slim.head.bias, plain.head.bias, rtol=1e-3)
    without = cut(plain, images, 2, Refit(intercept=False))[1]
    with torch.no_grad():  # the outputs are means over the maps, or linear
        before, after, other = plain(images), slim(images), without(images)
    torch.testing.assert_close(after.mean(dim=0), before.mean(dim=0), rtol=1e-8, atol=1e-9)
    assert torch.equal(without.bn.running_mean, plain.bn.running_mean)
    assert float((other.mean(dim=0) - before.mean(dim=0)).abs().max()) > 1e-3


def test_the_error_of_the_output_is_the_one_foretold(images):
    """From the moments to the output of the whole network, through the BatchNorm's mean."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 9, 3), nn.ReLU(), nn.Conv2d(9, 4, 3), nn.BatchNorm2d(4))
    net = net.double().eval()
    net[3].running_mean.normal_(0, 1)
    net[3].running_var.fill_(0.7)
    foretold, slim = cut(net, images, 4, Refit(), "0")
    with torch.no_grad():
        before, after = net(images), slim(images)
    variance = (before - before.mean((0, 2, 3), keepdim=True)).square().sum()
    measured = float((before - after).square().sum() / variance)
    assert measured == pytest.approx(foretold, rel=1e-8)
    assert 0.01 < measured < 0.9

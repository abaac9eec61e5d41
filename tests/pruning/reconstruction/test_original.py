"""The refit that aims at the original network: later layers make good what earlier ones lost."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import thinet
from thinet.pruning.criteria import Random
from thinet.pruning.group import Calibration, prune_groups_
from thinet.pruning.reconstruction import Refit
from thinet.pruning.statistics import Reference, Sampling, patches
from thinet.surgery import trace

ALL = Sampling(positions=None)


def prune(net, images, names, count, reconstruction, sampling=ALL):
    slim = copy.deepcopy(net)
    reference = Reference(net) if reconstruction.aims_at_original else None
    calibration = Calibration(list(images), sampling, batch=16, reference=reference)
    graph = trace(slim, images[:1])
    kept = {}
    for name in names:
        (record,), graph = prune_groups_(
            slim, graph, {name: count}, Random(), reconstruction, calibration
        )
        kept[name] = record.kept
    return slim, kept


def fit(U, target, intercept):
    ones = np.ones((len(U), 1))
    found = np.linalg.lstsq(np.hstack([U, ones]) if intercept else U, target, rcond=None)[0].T
    return (found[:, :-1], found[:, -1]) if intercept else (found, np.zeros(len(found)))


def as_rows(maps):
    return maps.flatten(2).transpose(1, 2).flatten(0, 1).numpy()


@pytest.mark.parametrize("intercept", [True, False])
def test_the_end_of_a_second_block_equals_numpy_least_squares(residual, images, intercept):
    net = residual(0, blocks=2)
    refit = Refit("original", ridge=0.0, intercept=intercept)
    half, _ = prune(net, images, ["first.0"], 2, refit)
    slim, kept = prune(net, images, ["first.0", "first.1"], 2, refit)
    torch.testing.assert_close(slim.second[0].weight, half.second[0].weight)
    with torch.no_grad():
        streams = []
        for one in (net, half):
            x = F.relu(one.stem(images))
            x = F.relu(one.norms[0](one.second[0](F.relu(one.first[0](x)))) + x)
            y = F.relu(one.first[1](x))
            raw = one.second[1](y)
            streams.append((y, raw, one.norms[1](raw) + x))
    (_, _, aim), (y, raw, total) = streams
    norm = net.norms[1]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    target = as_rows(((aim - total) / scale.view(-1, 1, 1) + raw).detach())
    U = as_rows(F.unfold(y[:, kept["first.1"]], 3, padding=1).detach()[..., None])
    weight, constant = fit(U, target, intercept)
    found = slim.second[1].weight.detach().flatten(1).numpy()
    np.testing.assert_allclose(U @ found.T, U @ weight.T, atol=1e-8)  # a dead input fits as it may
    shift = (norm.running_mean - slim.norms[1].running_mean).numpy()
    np.testing.assert_allclose(shift, constant, rtol=1e-6, atol=1e-8)


def test_a_chain_whose_reader_is_cut_in_the_meantime_equals_numpy(images):
    """The layers are cut from the back: the reader of "0" has lost filters, the aim has not."""
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(inplace=True), torch.nn.Conv2d(8, 7, 3),
        torch.nn.ReLU(inplace=True), torch.nn.Flatten(), torch.nn.Linear(28, 5),
    ).double()  # fmt: skip
    refit = Refit("original", ridge=0.0)
    slim, kept = prune(net, images, ["2", "0"], 4, refit)
    assert len(kept["2"]) == 4
    with torch.no_grad():
        y = F.relu(net[0](images))
        aim = as_rows(net[2](y)[:, kept["2"]])
    U = F.unfold(y[:, kept["0"]], 3).transpose(1, 2).flatten(0, 1)
    weight, constant = fit(U.numpy(), aim, True)
    np.testing.assert_allclose(slim[2].weight.detach().flatten(1).numpy(), weight, atol=1e-8)
    np.testing.assert_allclose(slim[2].bias.detach().numpy(), constant, atol=1e-8)


def test_the_first_cut_is_the_same_for_both_targets(residual, images):
    net = residual(2)
    found = [
        prune(net, images, ["first.0"], 4, Refit(target)) for target in ("current", "original")
    ]
    for ours, theirs in zip(found[0][0].parameters(), found[1][0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


def test_aiming_at_the_original_network_brings_the_logits_nearer(residual):
    """On the calibration images and on others, on the average over random networks."""
    ratios = []
    for seed in range(6):
        net = residual(seed, blocks=4, width=6, inner=8)
        generator = torch.Generator().manual_seed(100 + seed)
        seen, other = torch.randn(2, 48, 3, 6, 6, generator=generator).double()
        names = [f"first.{block}" for block in range(4)]
        nets = [prune(net, seen, names, 4, Refit(target))[0] for target in ("current", "original")]
        with torch.no_grad():
            errors = [
                [float((slim(images) - net(images)).square().sum()) for slim in nets]
                for images in (seen, other)
            ]
        ratios.append([original / current for current, original in errors])
    mean = np.exp(np.log(ratios).mean(axis=0))
    assert mean[0] < 0.9
    assert mean[1] < 0.95


@pytest.mark.parametrize("intercept", [True, False])
def test_rows_aim_at_the_original_as_moments_do(intercept, monkeypatch):
    """A layer too wide for moments keeps rows, and the system solved is the same."""
    torch.manual_seed(0)
    original = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(20, 7),
    ).eval()  # fmt: skip
    images = [torch.randn(40, 3, 9, 9)]
    reconstruction = Refit(target="original", intercept=intercept, ridge=1e-3)
    found = []
    for largest in (16_384, 10):
        monkeypatch.setattr(patches, "LARGEST", largest)
        found.append(thinet.prune(original, images, 0.5, reconstruction=reconstruction).model)
    by_moments, by_rows = (net(images[0]) for net in found)
    assert torch.allclose(by_moments, by_rows, rtol=1e-4, atol=1e-4)
    plain = thinet.prune(original, images, 0.5, reconstruction=Refit(intercept=intercept))
    assert not torch.allclose(plain.model(images[0]), by_rows, rtol=1e-3, atol=1e-3)

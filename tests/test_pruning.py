"""thinet.prune on a small network: every criterion with every reconstruction."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import thinet
from thinet.criteria import Criterion, ThiNet
from thinet.errors import ThinetError
from thinet.options import names
from thinet.pruning import Calibration, prune, prune_layer_
from thinet.reconstruction import NoReconstruction, Reconstruction, Scale, recalibrate_
from thinet.statistics import Sampling
from thinet.surgery import masked, trace

CRITERIA = ["apoz", "random", "thinet", "thinet_omp", "weight_sum"]
RECONSTRUCTIONS = ["none", "refit", "scale"]
DEAD = [0, 3]


def make(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU(),
        nn.Conv2d(10, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 5),
    )  # fmt: skip
    net[1].running_mean.normal_(0, 0.2)
    net[1].bias.data.normal_(0, 0.2)
    return net.double()


@pytest.fixture
def network():
    return make()


@pytest.fixture
def images():
    return torch.randn(40, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()


def outputs(net, images):
    with torch.no_grad():
        return copy.deepcopy(net).eval()(images)


def test_there_are_no_other_criteria_and_reconstructions():
    assert sorted(names("criteria", Criterion)) == CRITERIA
    assert sorted(names("reconstruction", Reconstruction)) == RECONSTRUCTIONS


@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_combination_gives_the_widths_and_leaves_the_network(
    network, images, criterion, reconstruction
):
    network.train()
    state = copy.deepcopy(network.state_dict())
    result = prune(network, [images[:25], (images[25:], None)], 0.5, criterion, reconstruction)
    assert [record.layer for record in result.layers] == ["0", "3", "6"]
    assert [len(record.kept) for record in result.layers] == [5, 4, 3]
    assert [record.filters_before for record in result.layers] == [10, 8, 6]
    shapes = [tuple(p.shape) for n, p in result.model.named_parameters() if n.endswith("weight")]
    assert shapes == [(5, 3, 3, 3), (5,), (4, 5, 3, 3), (3, 4, 3, 3), (5, 27)]
    assert result.model.training
    assert outputs(result.model, images).isfinite().all()
    assert result.after.flops < result.before.flops
    assert result.after.macs == 9 * (3 * 5 * 36 + 5 * 4 * 36 + 4 * 3 * 9) + 27 * 5
    assert network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name])
    again = prune(network, [images], 0.5, criterion, reconstruction)
    for ours, theirs in zip(again.model.parameters(), result.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert again.layers == result.layers


@pytest.mark.parametrize("criterion", CRITERIA)
def test_dead_filters_go_first(network, images, criterion):
    network[0].weight.data[DEAD] = 0  # nothing but the BatchNorm shift is left of them
    network[1].weight.data[DEAD] = 1
    network[1].bias.data[DEAD] = -5.0
    network[0].bias.data[DEAD] = network[1].running_mean[DEAD]
    for ratio, kept in ((0.8, 8), (0.5, 5)):
        result = prune(network, [images], ratio, criterion, layers="0")
        assert len(result.layers[0].kept) == kept
        assert not set(DEAD) & set(result.layers[0].kept)
    result = prune(network, [images], 0.9, criterion, layers="0")
    assert len(set(DEAD) & set(result.layers[0].kept)) == 1


@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
def test_removing_dead_filters_changes_nothing(network, images, reconstruction):
    network[0].weight.data[DEAD] = 0
    network[1].bias.data[DEAD] = -5.0
    network[0].bias.data[DEAD] = network[1].running_mean[DEAD]
    result = prune(
        network, [images], 0.8, "thinet", reconstruction, layers="0", recalibrate_bn=False
    )
    torch.testing.assert_close(outputs(result.model, images), outputs(network, images))
    assert (result.layers[0].error or 0.0) < 1e-20


def test_without_reconstruction_the_result_is_the_zeroed_network(network, images):
    result = prune(network, [images], 0.4, "thinet", "none", recalibrate_bn=False)
    graph = trace(network, images[:1])
    keep = {record.layer: record.kept for record in result.layers}
    expected = outputs(masked(network, graph, keep), images)
    torch.testing.assert_close(outputs(result.model, images), expected, rtol=1e-10, atol=1e-10)


def test_recalibration_is_that_of_the_pruned_network(network, images):
    plain = prune(network, [images], 0.5, "weight_sum", "none", recalibrate_bn=False).model
    found = prune(network, [images], 0.5, "weight_sum", "none").model
    assert not torch.equal(plain[1].running_mean, found[1].running_mean)
    recalibrate_(plain, [images])
    for ours, theirs in zip(plain.buffers(), found.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_recorded_errors_are_those_of_the_next_layer(network, images):
    # With one output pixel a filter and every filter drawn many times, the sampled error
    # approaches the error of the layer's output over all filters.
    net = nn.Sequential(
        nn.Conv2d(3, 9, 6), nn.ReLU(), nn.Flatten(), nn.Linear(9, 4)
    ).double()  # fmt: skip
    sampling = Sampling(locations=4000)
    for reconstruction in ("none", Scale(ridge=0.0)):
        result = prune(net, [images], 0.5, "weight_sum", reconstruction, "0", sampling=sampling)
        (record,) = result.layers
        y = outputs(net, images) - net[3].bias.detach()
        z = outputs(result.model, images) - net[3].bias.detach()
        relative = float(((y - z) ** 2).sum() / (y**2).sum())
        if reconstruction == "none":
            assert record.error is record.error_corrected is None  # nothing was sampled
        else:
            assert record.error_corrected == pytest.approx(relative, rel=0.05)
            assert record.error_corrected < record.error
            assert record.rows == 4000 * 40


def test_reconstruction_pays(network, images):
    """On the images it was fitted to, each reconstruction is nearer to the network than none."""
    errors = {}
    for name in RECONSTRUCTIONS:
        result = prune(network, [images], 0.5, "weight_sum", name, "3", recalibrate_bn=False)
        off = network[6](network[:6].eval()(images)) - result.model[6](
            result.model[:6].eval()(images)
        )
        errors[name] = float((off.detach() ** 2).sum())
    assert errors["refit"] < errors["scale"] < errors["none"]


def test_later_layers_are_judged_in_the_network_as_it_is_by_then(network, images):
    result = prune(network, [images], 0.5, "thinet", "scale", recalibrate_bn=False)
    step, calibration = copy.deepcopy(network), Calibration(list(images))
    for name, count in (("0", 5), ("3", 4), ("6", 3)):
        prune_layer_(step, name, count, ThiNet(), Scale(), calibration)
    for ours, theirs in zip(step.parameters(), result.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_sampling_seed_draws_another_sample(network, images):
    kept = [
        prune(network, [images], 0.5, "random", "none", sampling=Sampling(seed=seed)).layers
        for seed in (0, 0, 1)
    ]
    assert kept[0] == kept[1] != kept[2]


def test_ratios_by_layer_and_layers_left_whole(network, images):
    result = prune(network, [images], {"0": 0.29, "3": 1.0, "*": 0.5}, "weight_sum")
    assert [(record.layer, len(record.kept)) for record in result.layers] == [("0", 2), ("6", 3)]
    assert result.model[3].out_channels == 8


def test_a_layer_of_one_filter_stays(images):
    net = nn.Sequential(nn.Conv2d(3, 1, 3), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    result = prune(net.double(), [images], 0.25, "thinet", "refit")
    assert [(record.layer, record.kept) for record in result.layers] == [
        ("1", result.layers[0].kept)
    ]
    assert (result.model[0].out_channels, result.model[1].out_channels) == (1, 1)


def test_one_filter_of_each_layer_is_the_least(network, images):
    result = prune(network, [images], 1e-6, "thinet_omp", "refit")
    assert [len(record.kept) for record in result.layers] == [1, 1, 1]
    assert outputs(result.model, images).isfinite().all()


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("place", [0, 3, 6, 9])
def test_weights_that_are_not_finite_are_reported(network, images, criterion, place):
    network[place].weight.data.view(-1)[0] = torch.nan
    with pytest.raises(ThinetError, match="finite"):
        prune(network, [images], 0.5, criterion, "none")


@pytest.mark.parametrize("criterion", CRITERIA)
def test_frozen_and_half_trained_networks_are_pruned_too(network, images, criterion):
    network.requires_grad_(False)
    network[9].weight.requires_grad_(True)
    result = prune(network.float(), [images.float()], 0.5, criterion, "scale")
    flags = {name: p.requires_grad for name, p in result.model.named_parameters()}
    assert flags == {name: p.requires_grad for name, p in network.named_parameters()}


def test_one_image_and_a_collapsed_map_are_enough(images):
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 3),
    ).double()  # fmt: skip
    result = prune(net, [images[:1]], 0.5, "thinet", "refit", "0")
    assert result.layers[0].rows == 30  # 5 for each filter
    assert result.input_shape == (3, 6, 6)


def test_wrong_requests_are_one_sentence(network, images):
    with pytest.raises(ThinetError, match=r"no criterion 'tinet'.*thinet_omp"):
        prune(network, [images], 0.5, "tinet")
    with pytest.raises(ThinetError, match=r"no reconstruction 'scales'.*refit"):
        prune(network, [images], 0.5, "thinet", "scales")
    with pytest.raises(ThinetError, match="holds no images"):
        prune(network, [], 0.5)
    for batches in ([images[0]], images, [{"image": images}], [(None, images)]):
        with pytest.raises(ThinetError, match="image tensors of shape"):
            prune(network, batches, 0.5)
    for ratio in (0, 1.5, "half"):
        with pytest.raises(ThinetError, match="not a number in"):
            prune(network, [images], ratio)
    with pytest.raises(ThinetError, match="matches no layer"):
        prune(network, [images], 0.5, layers="conv*")
    with pytest.raises(ThinetError, match="output"):
        prune(network, [images], 0.5, layers=["9"])
    sigmoid = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(96, 2))
    with pytest.raises(ThinetError, match="criterion=thinet"):
        prune(sigmoid.double(), [images], 0.5, "apoz")
    with pytest.raises(ThinetError, match="cannot be pruned"):
        prune_layer_(network, "9", 2, ThiNet(), NoReconstruction(), Calibration(list(images)))


def test_batch_size_does_not_change_the_choice(network, images):
    calibration = Calibration(list(images))
    records = []
    for batch in (1, 7, 64):
        step = copy.deepcopy(network)
        record = prune_layer_(step, "0", 4, ThiNet(), Scale(), replace(calibration, batch=batch))
        records.append((record, step[3].weight.detach().numpy()))
    for record, weight in records[1:]:
        assert record.kept == records[0][0].kept
        assert record.error_corrected == pytest.approx(records[0][0].error_corrected, rel=1e-9)
        np.testing.assert_allclose(weight, records[0][1], rtol=1e-9)


def test_the_public_name_is_this_function(network, images):
    assert thinet.prune is prune
    result = thinet.prune(network, [images], 0.5, "weight_sum")
    assert thinet.cost(result.model, (3, 6, 6)) == result.after
    assert thinet.cost(network, (3, 6, 6)) == result.before

"""What is looked at around a cut, against hooks and arithmetic of its own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from thinet.models import build
from thinet.pruning import inspection as method
from thinet.pruning.criteria import L2
from thinet.pruning.group import Calibration, prune_groups_
from thinet.pruning.inspection import look, make_view, reader_of
from thinet.pruning.reconstruction import Refit
from thinet.surgery import trace

IMAGE = np.zeros((8, 8, 3))


def view_of(network, name, images, count, recalibrate=False, reconstruction=None):
    """The view of a cut, and the network after it."""
    graph = trace(network, images[:1])
    group = graph.groups[name]
    weight = network.get_parameter(group.layers[0].weight).detach().clone()
    full = look(network, group, images)
    slim = copy.deepcopy(network)
    records, _ = prune_groups_(
        slim, graph, {name: count}, L2(), reconstruction or Refit(), Calibration(list(images)),
        recalibrate,
    )  # fmt: skip
    seen = look(slim, group, images, errors_only=True)
    return make_view(group, weight, full, seen.output, records[0].kept, IMAGE), slim


def outputs(network, name, images):
    """What modules give, by hooks."""
    found = {}
    module = network.get_submodule(name)
    handle = module.register_forward_hook(lambda _, i, o: found.update(i=i[0].clone(), o=o.clone()))
    with torch.no_grad():
        network.eval()(images)
    handle.remove()
    return found


@pytest.fixture
def images():
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def resnet():
    torch.manual_seed(0)
    network = build("thinet.models.cifar_resnet.resnet20", num_classes=5, image_size=16)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def test_maps_and_error_are_those_of_hooks(resnet, images):
    view, slim = view_of(resnet, "layer1.1.conv1", images, 5)
    before = outputs(resnet, "layer1.1.conv2", images)
    assert view.reader == "layer1.1.conv2"
    assert torch.equal(torch.from_numpy(view.maps), before["i"][0])
    assert int(view.kept.sum()) == 5
    weights = resnet.layer1[1].conv1.weight.flatten(1).norm(dim=1)
    assert np.flatnonzero(view.kept).tolist() == sorted(weights.topk(5).indices.tolist())
    # The correction moves the mean of the BatchNorm behind the reader: what it takes off counts.
    after = outputs(slim, "layer1.1.conv2", images)
    y, z = before["o"], after["o"]
    y = y - resnet.layer1[1].bn2.running_mean[:, None, None]
    z = z - slim.layer1[1].bn2.running_mean[:, None, None]
    error = ((z - y) ** 2 / (y**2).mean()).double()
    assert view.error == pytest.approx(error.mean(dim=(0, 1)).numpy(), rel=1e-4)
    assert view.image_error == pytest.approx(error[0].mean(dim=0).numpy(), rel=1e-4)
    assert view.relative_error == pytest.approx(float(error.mean()), rel=1e-4)
    assert view.images == 6
    assert view.filters is None


def test_a_layer_that_is_not_cut_has_no_error(resnet, images):
    view, _ = view_of(resnet, "layer1.1.conv1", images, 16)
    assert view.relative_error == pytest.approx(0, abs=1e-6)
    assert view.kept.all()


@pytest.mark.parametrize(("channels", "shape"), [(1, (8, 3, 3)), (3, (8, 3, 3, 3)), (6, (8, 3, 3))])
def test_filters_are_shown_where_the_image_is_read(channels, shape):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(),
                        nn.Flatten(), nn.Linear(4 * 16, 3))  # fmt: skip
    images = torch.randn(4, channels, 8, 8)
    view, _ = view_of(net, "0", images, 3)
    assert view.filters.shape == shape
    weight = net[0].weight.detach()
    expected = weight.movedim(1, 3) if channels == 3 else weight.mean(1)
    assert np.array_equal(view.filters, expected.numpy())
    second, _ = view_of(net, "2", images, 2)
    assert second.filters is None


def test_a_linear_reader_has_an_error_but_no_places(images):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Linear(8, 3)).eval()  # fmt: skip
    view, slim = view_of(net, "0", images, 3)
    assert view.error is None
    assert view.image_error is None
    with torch.no_grad():
        y, z = net(images), slim(images)
    # the bias of the reader is part of its output
    assert view.relative_error == pytest.approx(float((z - y).square().mean() / y.square().mean()),
                                                rel=1e-4)  # fmt: skip
    shown = outputs(net, "2", images)["o"][0]
    assert torch.allclose(torch.from_numpy(view.maps), shown)


def test_the_reader_is_a_convolution_if_there_is_one(resnet, images):
    graph = trace(resnet, images[:1])
    assert reader_of(graph.groups["layer1.0.conv1"]).name == "layer1.0.conv2"


@pytest.mark.parametrize("more", [(), ("reconstruction.recalibrate_bn=each",), ("layers=all",)])
def test_a_run_draws_every_cut_layer_and_ends_in_the_same_bits(more, make_run, tmp_path):
    common = ("schedule=oneshot", "finetune=none", "baseline.epochs=1", *more)
    plain = make_run(*common, folder=tmp_path / "plain")
    wanted = plain.run()
    run = make_run(*common, "inspect=true", folder=tmp_path / "inspect")
    found = run.run()
    assert found.weights_by_process == wanted.weights_by_process
    drawn = {path.stem for path in (run.folder / "figures" / "inspect").iterdir()}
    assert drawn == set(run.plan.stages[0].counts)
    assert not (plain.folder / "figures").exists()
    for path in (run.folder / "figures" / "inspect").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 300


def test_other_processes_neither_look_nor_write(make_run, monkeypatch):
    run = make_run("schedule=oneshot", "finetune=none", "baseline.epochs=0", "inspect=true")
    monkeypatch.setattr(type(run.session), "writes", property(lambda self: False))
    assert method.inspecting(run.session, []) is None


@pytest.mark.parametrize("asked", [True, False])
def test_one_process_looks_if_it_is_asked_to(asked, make_run):
    run = make_run(f"inspect={str(asked).lower()}", "baseline.epochs=0")
    images = [run.setup.data.calibration()[0][0]]
    assert (method.inspecting(run.session, images) is not None) == asked

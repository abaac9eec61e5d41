"""thinet.prune of a network on a (pretended) GPU gives what it gives on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import thinet
from thinet.artifacts.export import export
from thinet.pruning.criteria import Criterion
from thinet.pruning.reconstruction import Reconstruction, Refit
from thinet.pruning.registry import names
from thinet.widths import choose as planning

CRITERIA = names("criteria", Criterion)
RECONSTRUCTIONS = [*names("reconstruction", Reconstruction), Refit(target="original")]
IMAGES, CLASSES = 16, 4


class Residual(nn.Module):
    """A stem, a block that is added to it, a grouped convolution and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.body = nn.Sequential(
            nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8),
        )  # fmt: skip
        self.tail = nn.Sequential(
            nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Flatten(), nn.Linear(6 * 4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, CLASSES),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images).relu()
        return self.tail((stem + self.body(stem)).relu())


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = Residual()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
    return network


@pytest.fixture
def batches():
    images = torch.randn(IMAGES, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(IMAGES) % CLASSES
    return [(images[:10], labels[:10]), (images[10:], labels[10:])]


@pytest.fixture
def same(network, batches, request):
    """``same(...)``: prune on both devices, compare, and give the result that lies on the GPU."""

    def prune(*arguments, dtype=torch.float32, tolerance=1e-5, on_gpu=False, **settings):
        network.to(dtype)
        given = [(images.to(dtype), labels) for images, labels in batches]
        ours = thinet.prune(network, given, *arguments, **settings)
        gpu = request.getfixturevalue("gpu")  # not before: it takes its time on the CPU too
        mine = copy.deepcopy(network).to(gpu)
        if on_gpu:
            given = [(images.to(gpu), labels.to(gpu)) for images, labels in given]
        theirs = thinet.prune(mine, given, *arguments, **settings)
        for one, other in zip(mine.parameters(), network.parameters(), strict=True):
            assert torch.equal(one.cpu(), other), "the network itself was changed"
        assert [layer.kept for layer in theirs.layers] == [layer.kept for layer in ours.layers]
        assert (theirs.after, theirs.skipped) == (ours.after, ours.skipped)
        for one, other in zip(theirs.layers, ours.layers, strict=True):
            if one.error is None:
                assert other.error is None
            else:
                assert one.error == pytest.approx(other.error, rel=tolerance, abs=tolerance)
        state = ours.model.state_dict()
        for name, tensor in theirs.model.state_dict().items():
            assert tensor.device == gpu, name
            torch.testing.assert_close(tensor.cpu(), state[name], rtol=tolerance, atol=tolerance)
        assert all(parameter.is_cuda for parameter in theirs.model.parameters())
        return theirs

    return prune


@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS, ids=str)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_with_every_reconstruction(same, criterion, reconstruction):
    result = same(0.5, criterion, reconstruction, layers=["stem.0", "tail.1"])
    names = {layer.layer for layer in result.layers}
    assert names == {"stem.0", "body.3", "tail.1"}, "a residual stream is one group"


@pytest.mark.parametrize(
    ("criterion", "reconstruction"),
    [*(("thinet", one) for one in RECONSTRUCTIONS), ("taylor", "scale"), ("l2", "none")],
    ids=str,
)
def test_allocation_by_error(same, criterion, reconstruction):
    result = same(1.0, criterion, reconstruction, target="flops:0.5", allocation="error")
    assert result.after.flops <= result.before.flops / 2


@pytest.mark.parametrize("target", ["flops:0.6", "params:0.6", "latency:0.6"])
@pytest.mark.parametrize("layers", ["inner", "all"])
def test_targets(same, monkeypatch, target, layers):
    def as_many_as_flops(networks, shape):
        return [thinet.cost(network, shape).flops for network in networks]

    monkeypatch.setattr(planning, "latencies_ms", as_many_as_flops)
    result = same(1.0, layers=layers, target=target)
    assert result.after.flops < result.before.flops


@pytest.mark.parametrize("recalibrate", ["each", "after", "never"])
@pytest.mark.parametrize("on_gpu", [False, True], ids=["images on the CPU", "images on the GPU"])
def test_recalibration_and_where_the_images_lie(same, recalibrate, on_gpu):
    same(0.5, "taylor", "scale", layers="all", recalibrate_bn=recalibrate, on_gpu=on_gpu)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS, ids=str)
def test_other_types(same, dtype, reconstruction):
    same(0.5, "thinet", reconstruction, layers="all", dtype=dtype, tolerance=1e-2)


def test_what_comes_of_it_is_saved_loaded_and_exported(same, tmp_path):
    result = same(0.5, "l2", "scale")
    gpu = next(result.model.parameters()).device
    folder = thinet.save(result, tmp_path / "model")
    images = torch.randn(3, 3, 4, 4)
    with torch.no_grad():
        wanted = result.model.eval()(images.to(gpu)).cpu()
        loaded = thinet.load(folder, Residual())
        assert not any(parameter.is_cuda for parameter in loaded.parameters())
        torch.testing.assert_close(loaded(images), wanted)
        torch.testing.assert_close(loaded.to(gpu)(images.to(gpu)).cpu(), wanted)
        into = thinet.load(folder, Residual().to(gpu))
        assert all(parameter.is_cuda for parameter in into.parameters())
    assert thinet.cost(result.model, (3, 4, 4)) == result.after == thinet.cost(loaded, (3, 4, 4))
    path, _ = export(folder, "pt2", Residual())
    assert path.exists()

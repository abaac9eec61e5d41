"""What saves passes when a network is pruned group by group must not change the result."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import thinet
from thinet.models.cifar_resnet import CifarResNet
from thinet.pruning.criteria import ThiNet
from thinet.pruning.group import Calibration, prune_groups_
from thinet.pruning.reconstruction import Refit
from thinet.pruning.statistics import Reference, Sampling, reference
from thinet.surgery import recalibrate_, trace


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    made = CifarResNet(2, 10).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
    return made


IMAGES = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(1))
SAMPLING = Sampling(positions=20)


def pruned(net: nn.Module) -> dict[str, Tensor]:
    result = thinet.prune(
        net, [IMAGES], reconstruction=Refit("original"), layers=["layer*.conv1"],
        recalibrate_bn="each", sampling=SAMPLING, batch_size=5,
    )  # fmt: skip
    return result.model.state_dict()


def passes(net: nn.Module) -> Iterator[int]:
    """Starts of forward passes of ``net`` itself."""
    seen = 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1

    net.register_forward_pre_hook(count)
    while True:
        yield seen


def test_the_same_network_as_by_a_plain_loop(net: nn.Module) -> None:
    slim = CifarResNet(2, 10).eval()
    slim.load_state_dict(net.state_dict())
    graph = trace(slim, IMAGES[:1])
    calibration = Calibration(IMAGES, SAMPLING, 5, reference=Reference(net))
    for name in [name for name in graph.groups if name.startswith("layer") and "conv1" in name]:
        half = graph.groups[name].units // 2
        _, graph = prune_groups_(
            slim, graph, {name: half}, ThiNet(), Refit("original"), calibration, recalibrate=True
        )
    wanted = slim.state_dict()
    found = pruned(net)
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=0, msg=name)


def test_little_memory_takes_more_passes_and_gives_the_same(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = passes(net)
    start = next(counter)
    roomy = pruned(net)
    between = next(counter)
    monkeypatch.setattr(reference, "MEMORY", 0)
    tight = pruned(net)
    end = next(counter)
    batches, groups = 3, 6
    assert (end - between) - (between - start) == batches * (groups - 1)
    assert all(torch.equal(value, roomy[name]) for name, value in tight.items())


def test_batchnorms_out_of_reach_stay_as_they_are() -> None:
    torch.manual_seed(0)
    near, far = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    network = nn.Sequential(near, far)
    nn.init.constant_(near.running_mean, 7.0)
    nn.init.constant_(far.running_mean, 5.0)
    far.num_batches_tracked.fill_(4)
    images = torch.randn(8, 3, 4, 4)
    assert recalibrate_(network, [images], forward=near) == 1
    torch.testing.assert_close(near.running_mean, images.mean(dim=(0, 2, 3)))
    assert far.running_mean.tolist() == [5.0, 5.0, 5.0]
    assert int(far.num_batches_tracked) == 4


def test_what_was_remembered_of_other_images_is_forgotten(net: nn.Module) -> None:
    """Images are known by their numbers, which begin anew with every set of them."""
    graph = trace(net, IMAGES[:1])
    groups = [graph.groups["layer1.0.conv1"], graph.groups["layer2.0.conv1"]]
    calls = {consumer.weight: consumer.calls for consumer in groups[0].consumers}
    joins = {consumer.weight: consumer.joins for consumer in groups[0].consumers}
    other, numbers = IMAGES.flip(0), list(range(len(IMAGES)))
    again = Reference(net)
    again.expect(groups, graph, len(IMAGES))
    again.outputs(IMAGES, numbers, calls, joins)
    again.expect(groups, graph, len(IMAGES))
    found = again.outputs(other, numbers, calls, joins)
    wanted = Reference(net).outputs(other, numbers, calls, joins)
    assert wanted.joined
    for key, output in wanted.joined.items():
        assert torch.equal(found.joined[key], output)

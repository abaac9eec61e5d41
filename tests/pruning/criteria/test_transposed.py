"""Transposed convolutions: their filters lie along the other axis of the weight.

With stride 1 a transposed convolution is a convolution with the kernel turned around, so a network
can be written both ways and every criterion has to choose the same filters in both.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import thinet
from thinet.base.errors import ThinetError
from thinet.pruning.criteria import Candidates
from thinet.surgery import trace

NAMES = sorted(
    file.stem for file in (Path(__file__).parents[3] / "conf" / "criterion").glob("*.yaml")
)


class Net(nn.Module):
    """A classifier whose second layer is transposed; ``add`` couples it to a third."""

    def __init__(self, add=False):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.side = nn.Conv2d(8, 6, 1) if add else None
        self.last = nn.Conv2d(6, 5, 3, padding=1)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = self.first(x).relu()
        y = self.norm(self.up(x))
        if self.side is not None:
            y = y + self.side(x)
        return self.head(self.last(y.relu()).relu().mean((2, 3)))


def networks(add):
    """The network, and the same function with a plain convolution in the place of ``up``."""
    torch.manual_seed(0)
    net = Net(add).eval()
    nn.init.normal_(net.norm.weight)
    twin = Net(add).eval()
    twin.up = nn.Conv2d(8, 6, 3, padding=1)
    state = net.state_dict()
    state["up.weight"] = state["up.weight"].transpose(0, 1).flip(2, 3)
    twin.load_state_dict(state)
    return net, twin


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_criterion_keeps_the_filters_of_the_same_network_without_it(name, add):
    net, twin = networks(add)
    images = torch.randn(24, 3, 8, 8)
    torch.testing.assert_close(net(images), twin(images))
    labels = torch.arange(24) % 4
    if name == "apoz" and add:
        pytest.skip("no ReLU follows a single layer of the group")
    kept = []
    for one in (net, twin):
        result = thinet.prune(
            one, [(images, labels)], layers=["up"], criterion=name, reconstruction="none"
        )
        kept.append({record.layer: record.kept for record in result.layers})
    assert kept[0] == kept[1]
    assert len(kept[0]["up"]) == 3


@pytest.mark.parametrize("name", ["none", "scale", "refit"])
def test_every_reconstruction_corrects_alike(name):
    images = torch.randn(24, 3, 8, 8)
    outputs = [
        thinet.prune(one, [images], layers=["up"], reconstruction=name).model(images)
        for one in networks(add=False)
    ]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_filter_is_what_makes_one_output_channel(dims):
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    turned = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    net = nn.Sequential(plain(3, 7, 1), turned(7, 5, 2, stride=2), nn.ReLU(), plain(5, 2, 1))
    graph = trace(net, torch.randn(1, 3, *[4] * dims))
    (part,) = Candidates.of(net, graph.groups["1"]).filters
    assert part.units.tolist() == [0, 1, 2, 3, 4]
    # by hand: with only output channel k left, the weights that can still change anything
    for k in range(5):
        assert torch.equal(part.value[k], net[1].weight[:, k])


@pytest.mark.parametrize("criterion", ["weight_sum", "l2", "fpgm"])
@pytest.mark.parametrize("width", [6, 8])
def test_small_filters_go_and_not_the_inputs(criterion, width):
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, width, 2, 2), nn.ReLU(),
        nn.Conv2d(width, 3, 3, padding=1),
    ).eval()  # fmt: skip
    with torch.no_grad():
        net[2].weight[:, : width // 2] *= 0.01
    found = thinet.prune(net, [torch.randn(4, 3, 8, 8)], layers="2", criterion=criterion)
    assert found.layers[0].kept == list(range(width // 2, width))


@pytest.mark.parametrize("groups", [2, 8])
def test_grouped_ones_stay_whole(groups):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, 2, groups=groups),
        nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 3, 1),
    ).eval()  # fmt: skip
    images = torch.randn(4, 3, 8, 8)
    for criterion in ("weight_sum", "thinet"):
        result = thinet.prune(net, [images], layers="all", criterion=criterion)
        assert [record.layer for record in result.layers] == ["4"]
        assert {"0", "2"} <= set(result.skipped)
    with pytest.raises(ThinetError, match="layer 2 cannot be pruned"):
        thinet.prune(net, [images], layers="2")

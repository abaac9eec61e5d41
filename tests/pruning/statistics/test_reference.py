"""Cross moments that aim at another network, against that network's activations."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.pruning.statistics import PatchMoments, Reference, Sampling, collect, shard
from thinet.pruning.statistics.reference import Outputs, gains
from thinet.surgery import remove_, trace


class Block(nn.Module):
    """A stem and one residual block; the sum is rectified in place."""

    def __init__(self, normed=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv1 = nn.Conv2d(6, 5, 3, padding=1)
        self.conv2 = nn.Conv2d(5, 6, 3, padding=1, bias=not normed)
        self.bn = nn.BatchNorm2d(6) if normed else nn.Identity()
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        """Images (N, 3, H, W) to (N, 3)."""
        shortcut = self.stem(x).relu()
        x = F.relu_(self.conv1(shortcut))
        x = self.bn(self.conv2(x))
        x += shortcut
        return self.head(x.relu_().mean((2, 3)))


def randomised(net, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*net.parameters(), *net.buffers()]:
        if tensor.is_floating_point():
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator) / 2)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.abs_().add_(0.5)
    return net.double().eval()


@pytest.fixture
def images():
    return torch.randn(11, 3, 6, 7, generator=torch.Generator().manual_seed(1)).double()


def gather(net, reference, images, name, positions=None, batch=4):
    group = trace(net, images[:1]).groups[name]
    sampling = Sampling(positions=positions, rows_per_channel=0)
    batches = shard(images, 0, 1, batch)
    found = collect(
        net, [group], [PatchMoments], batches, sampling, len(images), reference=reference
    )
    ((_, moments),) = found[name][PatchMoments].of.items()
    return moments


@torch.no_grad()
def inner(net, images):
    """The shortcut, the patches that conv2 reads, its output, and the sum."""
    shortcut = net.stem(images).relu()
    x = net.conv1(shortcut).relu()
    raw = net.conv2(x)
    U = F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)
    return U, raw, net.bn(raw) + shortcut


def as_rows(maps):
    return maps.flatten(2).transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("batch", [1, 4, 11])
@pytest.mark.parametrize("normed", [True, False])
def test_at_the_end_of_a_block_the_sum_is_what_counts(changed, normed, batch, images):
    net = randomised(Block(normed))
    current = changed(net, "stem.weight")
    moments = gather(current, Reference(net), images, "conv1", batch=batch)
    U, raw, total = inner(current, images)
    d = inner(net, images)[2] - total
    if normed:
        d = d / (net.bn.weight / (net.bn.running_var + net.bn.eps).sqrt()).view(-1, 1, 1)
        # Given to the convolution, d makes the sum that of the reference.
        torch.testing.assert_close(
            total + current.bn(raw + d) - current.bn(raw), inner(net, images)[2]
        )
    d = as_rows(d).detach()
    torch.testing.assert_close(moments.cross[0], U.T @ d, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moments.off[0], d.sum(dim=0), rtol=1e-9, atol=1e-9)
    centred = (U - U.mean(dim=0)).T @ (d - d.mean(dim=0))
    torch.testing.assert_close(moments.centred_cross()[0], centred, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(moments.second[0], U.T @ U, rtol=1e-9, atol=1e-9)


def test_sampled_positions_are_the_same_in_patches_and_targets(images):
    # With a reference that is linear in the patches the target at each sampled position is known.
    net = randomised(Block(normed=False))
    wanted = copy.deepcopy(net)
    wanted.conv2.weight.data.mul_(1.5)
    moments = gather(net, Reference(wanted), images, "conv1", positions=7)
    assert moments.count == 11 * 7
    flat = 0.5 * net.conv2.weight.detach().flatten(1)
    torch.testing.assert_close(moments.cross[0], moments.second[0] @ flat.T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moments.off[0], flat @ moments.first[0], rtol=1e-9, atol=1e-9)


def chain(groups=1):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, groups=groups),
        nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(4 * 2 * 3, 3),
    )  # fmt: skip


@pytest.mark.parametrize("groups", [1, 2])
def test_a_plain_chain_aims_at_the_layers_own_output_before_the_relu(changed, groups, images):
    net = randomised(chain(groups))
    current = changed(net, "0.weight")
    moments = gather(current, Reference(net), images, "0")
    with torch.no_grad():
        x = current[1](current[0](images))
        d = as_rows(net[2](net[1](net[0](images))) - current[2](x))
    U = F.unfold(x, 3).transpose(1, 2).flatten(0, 1).unflatten(1, (groups, -1)).transpose(0, 1)
    d = d.unflatten(1, (groups, -1)).transpose(0, 1)
    assert float(d.abs().mean()) > 0.1
    torch.testing.assert_close(moments.cross, U.mT @ d, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moments.off, d.sum(dim=1), rtol=1e-9, atol=1e-9)


def test_a_layer_that_lost_filters_aims_at_those_that_are_left(changed, images):
    """The reader's own filters were cut before, twice, and the reference is numbered as it was."""
    net = randomised(chain())
    current = changed(net, "0.weight")
    reference = Reference(net)
    graph = trace(current, images[:1])
    for kept in ([0, 2, 3, 5, 6, 7], [1, 2, 4]):  # of eight, then of six
        graph = trace(current, images[:1])
        reference.note(graph.layers["2"], kept)
        remove_(current, graph, {"2": kept})
    assert reference.filters["2.weight"].tolist() == [2, 3, 6]
    moments = gather(current, reference, images, "0")
    with torch.no_grad():
        x = current[1](current[0](images))
        d = as_rows(net[2](net[1](net[0](images)))[:, [2, 3, 6]] - current[2](x))
    U = F.unfold(x, 3).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(moments.cross[0], U.T @ d, rtol=1e-9, atol=1e-9)


def test_a_linear_reader_aims_too(changed, images):
    net = randomised(chain())
    current = changed(net, "0.weight")
    moments = gather(current, Reference(net), images, "4")
    with torch.no_grad():
        x = current[:6](images)
        d = net(images) - current(images)
    torch.testing.assert_close(moments.cross[0], x.T @ d, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moments.off[0], d.sum(dim=0), rtol=1e-9, atol=1e-9)


def test_a_network_that_is_its_own_reference_has_nothing_to_gain(images):
    net = randomised(Block())
    moments = gather(net, Reference(copy.deepcopy(net)), images, "conv1")
    assert float(moments.cross.abs().max()) < 1e-9 * float(moments.second.abs().max())
    assert gather(net, None, images, "conv1").cross is None


@pytest.mark.parametrize("shut", [[1, 4], list(range(6))])
def test_channels_that_a_batchnorm_shuts_gain_nothing(changed, shut, images):
    net = randomised(Block())
    net.bn.weight.data[shut] = 0.0
    moments = gather(changed(net, "stem.weight"), Reference(net), images, "conv1")
    assert bool(torch.isfinite(moments.cross).all())
    assert not moments.cross[0][:, shut].any()
    assert not moments.off[0][shut].any()
    if len(shut) < 6:
        assert float(moments.cross[0][:, [0, 2, 3, 5]].abs().min()) > 0


def test_gains_of_outputs_without_a_join_in_both_networks_are_their_own():
    key, other = ("w", 0), ("v", 1)
    raw, aim = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    total = torch.randn(2, 3, 4, 4)
    seen = Outputs({key: raw, other: raw}, {key: total}, {key: torch.full((3,), 2.0)})
    wanted = Outputs({key: aim, other: raw}, {}, {})
    found = gains(seen, wanted, {"w": torch.tensor([4, 0, 1])})
    torch.testing.assert_close(found[key], aim[:, [4, 0, 1]] - raw)
    assert not found[other].any()
    wanted = Outputs({key: aim, other: raw}, {key: aim}, {key: None})
    found = gains(seen, wanted, {"w": torch.tensor([4, 0, 1])})
    torch.testing.assert_close(found[key], (aim[:, [4, 0, 1]] - total) / 2)


def test_both_networks_are_left_as_they_were(changed, images):
    net = randomised(Block()).train()
    current = changed(net, "stem.weight").train()
    before = [copy.deepcopy(one.state_dict()) for one in (net, current)]
    gather(current, Reference(net), images, "conv1")
    assert net.training
    assert current.training
    for one, state in zip((net, current), before, strict=True):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, state[name])

"""Statistics that are formed a few images at a time: any block size, the same sums."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thinet.pruning.statistics import ContributionMoments, PatchMoments, Sampling, collect, shard
from thinet.pruning.statistics import contributions as contributions_file
from thinet.pruning.statistics import patches as patches_file
from thinet.pruning.statistics.patches import blocks, patches
from thinet.surgery import trace
from thinet.surgery.calls import WeightCall


@pytest.mark.parametrize("positions", [None, 5])
def test_blocks_hold_the_rows_of_all_images_in_order(positions, monkeypatch):
    x, weight = torch.randn(7, 4, 6, 5), torch.randn(3, 4, 3, 3)
    chosen = None if positions is None else torch.randint(30, (7, positions))
    call = WeightCall("conv", "w", (), x, (1, 1), (1, 1), (1, 1))
    rows = 30 if positions is None else positions
    monkeypatch.setattr(patches_file, "BLOCK", 3 * rows * 36 + 1)  # room for three images
    found = list(blocks(call, weight, chosen))
    assert [part.shape[1] for part in found] == [3 * rows, 3 * rows, rows]
    torch.testing.assert_close(torch.cat(found, dim=1), patches(call, weight, chosen))
    if positions is None:
        unfolded = F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)
        torch.testing.assert_close(torch.cat(found, dim=1)[0], unfolded)


@pytest.mark.parametrize("kind", [ContributionMoments, PatchMoments])
@pytest.mark.parametrize("name", ["conv1", "conv3"])  # read by a convolution and a linear layer
def test_one_image_at_a_time_gives_the_same_sums(name, kind, network, images, monkeypatch):
    group = trace(network, images[:1]).groups[name]

    def sums():
        batches = shard(images, 0, 1, 16)
        found = collect(network, [group], [kind], batches, Sampling(positions=7), len(images))
        return found[name][kind]

    whole = sums()
    for file in (contributions_file, patches_file):
        monkeypatch.setattr(file, "BLOCK", 1)
    parts = sums()
    assert parts.rows == whole.rows
    if kind is ContributionMoments:
        torch.testing.assert_close(parts.gram, whole.gram, rtol=1e-12, atol=1e-12)
        return
    for weight, moments in parts.of.items():
        wanted = whole.of[weight]
        assert moments.count == wanted.count
        torch.testing.assert_close(moments.second, wanted.second, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(moments.first, wanted.first, rtol=1e-12, atol=1e-12)


def test_windows_at_the_border_are_zero_even_beside_infinite_pixels():
    """Pixels outside are not read and then blanked by a product: infinity times zero is NaN."""
    x = torch.full((1, 1, 2, 2), float("inf"))
    call = WeightCall("conv", "w", (), x, (1, 1), (1, 1), (1, 1))
    (rows,) = patches(call, nn.Conv2d(1, 1, 3).weight, torch.tensor([[0]]))
    assert rows[0].tolist() == [0, 0, 0, 0, *[float("inf")] * 2, 0, *[float("inf")] * 2]

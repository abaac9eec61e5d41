"""MobileNets: V2 in any width beside torchvision's, V1, and the V2 that searches begin with."""

from __future__ import annotations

import pytest
import torch
import torchvision

from thinet.models.mobilenet import mobilenet_v2
from thinet.models.mobilenet_v1 import mobilenet_v1
from thinet.models.mobilenet_v2_wide import mobilenet_v2_wide
from thinet.surgery import difference, masked, remove_, shared_copy, trace


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_it_is_torchvisions_for_large_images(width):
    theirs = torchvision.models.mobilenet_v2(num_classes=7, width_mult=width).eval()
    ours = mobilenet_v2(7, 96, width).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 96, 96)
    assert torch.equal(ours(images), theirs(images))
    small = mobilenet_v2(7, 32, width).eval()
    small.load_state_dict(theirs.state_dict())
    maps = small.features(torch.rand(2, 3, 32, 32))
    assert maps.shape[2:] == (4, 4), "of 32 pixels a map is left"


@pytest.mark.parametrize("make", [mobilenet_v1, mobilenet_v2, mobilenet_v2_wide])
def test_zeroing_equals_removing(make):
    torch.manual_seed(0)
    network = make(5, 32).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        network.train()(images)  # statistics without which deep maps vanish
    network.eval()
    graph = trace(network, images[:1])
    names = graph.prunable(summed=True)
    keep = {name: torch.randperm(graph.groups[name].units)[: graph.groups[name].units // 2]
            .sort()[0].tolist() for name in names}  # fmt: skip
    slim = remove_(shared_copy(network), graph, keep)
    assert difference(masked(network, graph, keep), slim, images) < 1e-4
    depthwise = [one for one in slim.modules() if isinstance(one, torch.nn.Conv2d)
                 and one.groups > 1]  # fmt: skip
    assert all(one.groups == one.in_channels == one.out_channels for one in depthwise)


def test_a_wide_block_of_equal_pruned_widths_has_no_shortcut_of_its_own():
    network = mobilenet_v2_wide(5, 32)
    shortcuts = [one.shortcut for one in network.features if hasattr(one, "shortcut")]
    assert shortcuts == [False, False, True, False, True, True, False, True, True, True, False,
                         True, True, False, True, True, False]  # fmt: skip

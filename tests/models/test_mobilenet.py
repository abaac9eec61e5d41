"""MobileNetV2 in any width, beside torchvision's."""

from __future__ import annotations

import pytest
import torch
import torchvision

from thinet.models.mobilenet import mobilenet_v2


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

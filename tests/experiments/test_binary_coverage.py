from __future__ import annotations

import torch
import torchvision
from torch import nn

from experiments.binary_coverage import one_network, run
from experiments.binary_coverage.timm_families import TIMM
from thinet.quantization.convert import binarized


def converted():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 5))
    return binarized(network, 2, "sample", 1.0, ["2"], ["2"], [])


def test_gradients_that_are_missing_are_named():
    images = torch.randn(2, 3, 2, 2)
    assert one_network.gradients(converted(), images) == "fine"
    network = converted()
    nn.init.zeros_(network[3].weight)
    assert one_network.gradients(network, images) == "2 has a gradient of zeros"
    assert "raises RuntimeError" in one_network.gradients(network, images[:, :1])


def test_a_row_says_what_was_planned():
    network = one_network.without_numbers("torchvision", "squeezenet1_1")
    plan = one_network.plan_conversion(network, torch.empty(1, 3, 64, 64))
    row = one_network.counts(network, plan)
    assert (row["layers"], row["binary"], row["norms"]) == (26, 24, 24)
    assert row["why_not"] == "it is the first layer: 1; it is the last layer: 1"
    first, last = 64 * 3 * 9, 512 * 10
    total = sum(one.weight.numel() for one in network.modules() if isinstance(one, nn.Conv2d))
    assert row["weights_binary"] == 1 - (first + last) / total


def test_networks_that_raise_have_a_row(monkeypatch):
    row = run.row_of("torchvision", "nonet")
    assert row["status"].startswith("ValueError: Unknown model nonet")
    assert len(run.networks()) == len({*run.networks()}) == 80 + len(TIMM)
    assert len(torchvision.models.list_models(module=torchvision.models)) == 80

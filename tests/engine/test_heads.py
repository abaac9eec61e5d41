"""The classifier's own learning rate."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from thinet.engine.heads import head_apart
from thinet.models.small_vgg import vgg_small
from thinet.models.vgg import vgg16

MAKE = partial(torch.optim.SGD, lr=1.0, weight_decay=0.01)


def trained(network, factor):
    """The network after one step of plain gradient descent, rate 0.1."""
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    optimizer = head_apart(MAKE, network, factor)(network.parameters())
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1)
    nn.functional.cross_entropy(network(images), torch.arange(4)).backward()
    before = {name: value.clone() for name, value in network.named_parameters()}
    gradients = {name: value.grad.clone() for name, value in network.named_parameters()}
    optimizer.step()
    return before, gradients, dict(network.named_parameters())


def test_the_head_takes_larger_steps_and_decays_faster():
    before, gradients, after = trained(vgg_small(10, 32, widths=(4, 8)).eval(), 10.0)
    for name, value in after.items():
        factor = 10.0 if name.startswith("classifier") else 1.0
        step = gradients[name] + factor * 0.01 * before[name]
        torch.testing.assert_close(value, before[name] - 0.1 * factor * step)


def test_of_three_linear_layers_the_last_is_the_head():
    network = vgg16(10, 32)
    optimizer = head_apart(MAKE, network, 3.0)(network.parameters())
    sizes = [sum(p.numel() for p in group["params"]) for group in optimizer.param_groups]
    assert sizes[1] == 4096 * 10 + 10
    assert sum(sizes) == sum(p.numel() for p in network.parameters())
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 3.0]


@pytest.mark.parametrize("frozen", ["features", "classifier"])
def test_frozen_parameters_stay_out(frozen):
    network = vgg_small(10, 32, widths=(4, 8))
    network.get_submodule(frozen).requires_grad_(False)
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = head_apart(MAKE, network, 10.0)(learning).param_groups
    assert sum(len(group["params"]) for group in groups) == len(learning)


def test_a_factor_of_one_is_the_optimizer_itself():
    assert head_apart(MAKE, vgg_small(10, 32), 1) is MAKE

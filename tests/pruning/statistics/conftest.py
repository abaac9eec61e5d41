"""Networks and a pass over them that the tests of all statistics share."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F


class Small(nn.Module):
    """Two convolutions with BatchNorm, a functional ReLU, a shared ReLU and a flattened 3x3 map."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(8, 4, 1)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(4 * 9, 5)

    def forward(self, x):
        """Images (N, 3, 6, 6) to (N, 5)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.linear(self.relu(self.conv3(x)).flatten(1))


def randomise_(network, seed=0):
    """Give BatchNorm layers statistics and shifts that matter."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            for tensor in (module.running_var, module.weight.data):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network


@pytest.fixture
def network():
    torch.manual_seed(0)
    return randomise_(Small()).double().eval()


@pytest.fixture
def images():
    return torch.randn(70, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture
def changed():
    """``changed(net, name)``: a copy in which that weight is another one."""

    def make(net, name):
        other = copy.deepcopy(net)
        with torch.no_grad():
            weight = other.get_parameter(name)
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(5))
            weight.add_(0.3 * noise)
        return other

    return make

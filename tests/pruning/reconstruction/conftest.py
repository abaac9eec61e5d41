"""Networks that the tests of reconstructions cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Residual blocks that sum into one stream, with BatchNorm and ReLU in place."""

    def __init__(self, blocks: int, width: int, inner: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(width, inner, 3, padding=1) for _ in range(blocks))
        self.second = nn.ModuleList(
            nn.Conv2d(inner, width, 3, padding=1, bias=False) for _ in range(blocks)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(blocks))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to (N, 10)."""
        x = F.relu(self.stem(x))
        for first, second, norm in zip(self.first, self.second, self.norms, strict=True):
            y = norm(second(F.relu_(first(x))))
            y += x
            x = F.relu_(y)
        return self.head(x.mean((2, 3)))


class Plain(nn.Module):
    """A stem that a convolution with BatchNorm, a grouped one and a linear layer read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.normed = nn.Conv2d(8, 5, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(5)
        self.grouped = nn.Conv2d(8, 6, 3, padding=1, groups=2)
        self.head = nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, 6, 6) to (N, 15)."""
        x = F.relu(self.stem(x))
        parts = [self.bn(self.normed(x)).mean((2, 3)), self.grouped(x).mean((2, 3))]
        return torch.cat([*parts, self.head(x.flatten(1))], dim=1)


def randomise_(net: nn.Module, seed: int) -> nn.Module:
    """BatchNorms with scales and statistics that matter; in double precision and eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
            for tensor in (module.running_var, module.weight.data):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return net.double().eval()


@pytest.fixture
def residual() -> Callable[..., nn.Module]:
    """``residual(seed, blocks, width, inner)``."""

    def make(seed: int, blocks: int = 3, width: int = 8, inner: int = 8) -> nn.Module:
        torch.manual_seed(seed)
        return randomise_(Residual(blocks, width, inner), seed)

    return make


@pytest.fixture
def plain() -> nn.Module:
    torch.manual_seed(0)
    return randomise_(Plain(), 0)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(24, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()

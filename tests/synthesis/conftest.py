from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.synthesis.parts import EVERYTHING, trained_like
from thinet.datasets.digits import Digits
from thinet.engine.distilled import Pupil
from thinet.engine.engine import Engine
from thinet.engine.settings import Devices
from thinet.models.features import Feature
from thinet.synthesis.critic import Critic
from thinet.synthesis.generator import Generator


@pytest.fixture
def engine() -> Engine:
    data = Digits(image_size=8, batch_size=32, seed=3, num_classes=10)
    return Engine(data, Devices(accelerator="cpu", progress="off"), seed=3)


@pytest.fixture
def teacher() -> nn.Module:
    """In training mode: whoever uses it brings it to rest."""
    return trained_like(5)


@pytest.fixture
def make_student() -> Callable[[], nn.Module]:
    return lambda: trained_like(7, 4)


@pytest.fixture
def make_generator() -> Callable[[], Generator]:
    """Of 8x8 pixels; each call gives the same weights."""

    def make() -> Generator:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return Generator((3, 8, 8), latent=5, width=4)

    return make


@pytest.fixture
def critic(teacher) -> Critic:
    """Of all terms."""
    return Critic(Pupil(teacher, Feature("8", 54)), EVERYTHING)

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

from thinet.datasets.digits import Digits
from thinet.engine.engine import Engine
from thinet.engine.module import Learner
from thinet.engine.settings import Devices, Training

STEPS = 3


class KilledError(BaseException):
    """Stands for kill -9: nothing on the way up may handle it."""


@pytest.fixture
def engine() -> Engine:
    """Shifted digits of 8x8 pixels, three steps an epoch."""
    data = Digits(image_size=8, batch_size=32, crop="pad", seed=3, num_classes=10)
    devices = Devices(accelerator="cpu", progress="off", max_steps_per_epoch=STEPS)
    return Engine(data, devices, seed=3)


@pytest.fixture
def training() -> Training:
    return Training(partial(torch.optim.SGD, lr=1.0, momentum=0.9, weight_decay=1e-3), 0.1, 2.0)


@pytest.fixture
def make_network() -> Callable[[], nn.Module]:
    """Always the same weights; BatchNorm and dropout hold state that a resumed run must restore."""

    def make(width: int = 6) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(
                nn.Conv2d(3, width, 3, stride=2),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Flatten(),
                nn.Linear(width * 9, 10),
            )

    return make


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], None]]:
    """``kill("step", 4)``: die in the fifth training step from now; or in a validation; or
    ``kill("end", 0)``: when Lightning has finished but the run has not noted it.
    """
    owners = {
        "step": (Learner, "training_step"),
        "validation": (Learner, "on_validation_epoch_end"),
        "end": (Trainer, "fit"),
    }

    def arm(where: str, after: int = 0) -> None:
        owner, name = owners[where]
        original, calls = getattr(owner, name), []

        def die_at(*args, **kwargs):
            calls.append(1)
            if where == "end":
                original(*args, **kwargs)
            if len(calls) == after + 1:
                monkeypatch.setattr(owner, name, original)
                raise KilledError
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, die_at)

    return arm

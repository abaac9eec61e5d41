"""Trains without data on one process or two; a script, because Lightning starts it again."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.synthesis.parts import EVERYTHING, PHASE, trained_like
from thinet.artifacts.store import dump_state
from thinet.base.errors import Terminated
from thinet.datasets.digits import Digits
from thinet.datasets.steps import Steps
from thinet.engine.distilled import Pupil
from thinet.engine.engine import Engine
from thinet.engine.log_levels import silence_lightning
from thinet.engine.settings import Devices, Training
from thinet.models.features import Feature
from thinet.synthesis.batchnorm import alone
from thinet.synthesis.critic import Critic
from thinet.synthesis.generator import Generator
from thinet.synthesis.memory import ImagePool, average_of
from thinet.synthesis.noise import Noise
from thinet.synthesis.objective import DataFree, Imagining
from thinet.synthesis.updates import Batches, Turn

STEPS, BATCH = 9, 12  # processes ask each other after 8 whether one was told to stop
SGD = Training(partial(torch.optim.SGD, lr=1.0, momentum=0.9), clip_norm=0.3)
TURN = Turn(PHASE, SGD)
"""Adam would make steps of what is nothing but rounding."""


def drawer() -> Generator:
    torch.manual_seed(1)
    return Generator((3, 8, 8), latent=5, width=4)


def critic(**losses: Any) -> Critic:
    teacher = trained_like(5).requires_grad_(False)
    return Critic(Pupil(teacher, Feature("8", 54)), replace(EVERYTHING, **losses))


def both(watch: Any) -> DataFree:
    """Every term, every memory, several turns; a student's BatchNorm would see its own images."""
    torch.manual_seed(2)
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.ReLU(), nn.Linear(12, 10))
    generator = drawer()
    return DataFree(
        student, critic(), Batches(generator, Noise(11, BATCH)), (replace(TURN, times=2),) * 2,
        average_of(generator, 0.9), ImagePool(30, (3, 8, 8)), watch=watch,
    )  # fmt: skip


def imagining(watch: Any) -> Imagining:
    return Imagining(critic(adversarial=0.0), Batches(drawer(), Noise(11, BATCH)), TURN, watch)


def train(engine: Engine, folder: Path, make: Any, told: int | None = None) -> dict[str, Any]:
    """What a training leaves, and what was watched on the way, on this process."""
    seen: list[dict[str, float]] = []

    def watch(epoch: int, figures: dict[str, float]) -> None:
        if told == epoch:
            os.kill(os.getpid(), signal.SIGTERM)
        seen.append(figures)

    one, ended, engine.step = make(watch), False, 0
    try:
        engine.train(one, "stage", folder, Steps(STEPS), validated=False)
    except Terminated:
        ended = True
    modules = {"network": one.network, **one.parts}
    state = {f"{n}.{k}": v for n, part in modules.items() for k, v in part.state_dict().items()}
    return {
        "figures": seen, "ended": ended,
        "values": {name: tensor.flatten().tolist() for name, tensor in state.items()},
        "digest": hashlib.sha256(b"".join(map(dump_state, modules.values()))).hexdigest(),
    }  # fmt: skip


def by_oneself(engine: Engine) -> float:
    """How far images that the first process draws alone are from those of a single process."""
    noise = torch.randn(6, 5, generator=torch.Generator().manual_seed(4))
    generator = drawer()
    drawn = None
    with alone(generator):
        if engine.rank == 0:  # the other one does something else
            drawn = generator(noise)
    everyone = generator(noise)  # of equal halves, so with the same statistics
    return 0.0 if drawn is None else float((drawn - everyone).detach().abs().max())


def main(folder: Path, world: int) -> dict[str, Any]:
    data = Digits(image_size=8, batch_size=32, seed=3, num_classes=10)
    strategy = "ddp" if world > 1 else "auto"
    devices = Devices("cpu", world, strategy=strategy, progress="off", checkpoint_minutes=60)
    engine = Engine(data, devices, seed=3)
    engine.start_processes()
    found: dict[str, Any] = {"both": train(engine, folder / "both", both)}
    found["imagining"] = train(engine, folder / "imagining", imagining)
    if world > 1:
        found["told"] = train(engine, folder / "told", both, 0 if engine.rank else None)
        found["resumed"] = train(engine, folder / "told", both)
        found["by oneself"] = by_oneself(engine)
    return found


if __name__ == "__main__":
    silence_lightning()
    target = Path(sys.argv[1])
    result = main(target, 2)
    (target / f"{torch.distributed.get_rank()}.json").write_text(json.dumps(result))

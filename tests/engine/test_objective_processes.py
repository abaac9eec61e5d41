"""Alternate updates on two processes: gradients are averaged over both, for each update."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import thinet
from tests import warm

# A script, because Lightning starts it again as the second process.
SCRIPT = """
import copy, hashlib, json, os, signal, sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
import torch
import torch.nn.functional as F
from torch import nn
from thinet.artifacts.store import dump_state
from thinet.base.errors import Terminated
from thinet.base.seeding import derive_seed
from thinet.datasets.digits import Digits
from thinet.datasets.steps import Steps
from thinet.engine.engine import Engine
from thinet.engine.log_levels import silence_lightning
from thinet.engine.module import Learner
from thinet.engine.objective import Objective, Update
from thinet.engine.phases import Phase
from thinet.engine.settings import Devices, Training

STEPS, KEY, RATE = 10, "stage", 0.05  # they ask each other after 8 whether one was told to stop
TRAINING = Training(partial(torch.optim.SGD, lr=1.0, momentum=0.9), clip_norm=0.1)

def make(seed, *layers):
    torch.manual_seed(seed)
    return nn.Sequential(*[layer() for layer in layers])

def student(seed):
    return make(seed, nn.Flatten, lambda: nn.Linear(192, 12), nn.ReLU, lambda: nn.Linear(12, 10))

@dataclass(frozen=True, eq=False)
class DataFree(Objective):
    network: nn.Module
    teacher: nn.Module
    generator: nn.Module

    @property
    def parts(self):
        return {"generator": self.generator}

    @property
    def frozen(self):
        return (self.teacher,)

    @property
    def updates(self):
        phases = [Phase(2, RATE)]
        return (
            Update((self.generator,), self.generate, {"sure": 1.0}, phases, TRAINING, "images"),
            Update((self.network,), self.learn, {"agree": 1.0}, phases, TRAINING),
        )

    def images(self):
        return self.generator(torch.randn(8, 4))

    def generate(self, batch):
        said = self.teacher(images := self.images())
        apart = F.mse_loss(self.network(images), said)
        return {"sure": F.cross_entropy(said, said.argmax(1)) - apart}

    def learn(self, batch):
        images = self.images().detach()
        return {"agree": F.mse_loss(self.network(images), self.teacher(images))}

def objective():
    generator = make(2, lambda: nn.Linear(4, 192), nn.Tanh, lambda: nn.Unflatten(1, (3, 8, 8)))
    return DataFree(student(0), student(1).requires_grad_(False), generator)

def by_hand(world):
    one = objective()
    optimizers = [(update, update.make_optimizer()) for update in one.updates]
    for epoch in range(2):
        for step in range(STEPS):
            random = []
            for rank in range(world):
                torch.manual_seed(derive_seed(derive_seed(3, KEY), "batch", epoch, step, rank))
                random.append(torch.get_rng_state())
            for update, optimizer in optimizers:
                parameters, sums = update.parameters(), None
                for rank in range(world):
                    torch.set_rng_state(random[rank])
                    loss = update.losses(None)[update.name]
                    random[rank] = torch.get_rng_state()
                    found = torch.autograd.grad(loss, parameters)
                    sums = found if sums is None else [a + b for a, b in zip(sums, found)]
                for parameter, gradient in zip(parameters, sums):
                    parameter.grad = gradient / world
                nn.utils.clip_grad_norm_(parameters, TRAINING.clip_norm)
                for group in optimizer.param_groups:
                    group["lr"] = RATE
                optimizer.step()
    return one

def digest(one):
    parts = dump_state(one.network) + dump_state(one.generator)
    return hashlib.sha256(parts).hexdigest()

def train(engine, folder, told=None):
    calls, step = [], Learner.training_step

    def on_step(self, batch, index):
        calls.append(batch.seed)
        if len(calls) == told:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, index)

    Learner.training_step = on_step
    one, ended = objective(), False
    try:
        engine.train(one, KEY, folder, Steps(STEPS))
    except Terminated:
        ended = True
    finally:
        Learner.training_step = step
    return one, {"digest": digest(one), "ended": ended, "seeds": calls}

def main(folder):
    silence_lightning()
    data = Digits(image_size=8, batch_size=32, seed=3, num_classes=10)
    devices = Devices("cpu", 2, strategy="ddp", progress="off", checkpoint_minutes=60)
    engine = Engine(data, devices, seed=3)
    engine.start_processes()
    folder, rank, found = Path(folder), engine.rank, {}
    one, found["whole"] = train(engine, folder / "whole")
    twin = by_hand(2)
    found["apart"] = max(
        float((a - b).abs().max()) for a, b in zip(
            [*one.network.parameters(), *one.generator.parameters()],
            [*twin.network.parameters(), *twin.generator.parameters()],
        )
    )
    start = objective()
    found["moved"] = min(
        float((a - b).detach().abs().max()) for a, b in zip(
            [*one.network.parameters(), *one.generator.parameters()],
            [*start.network.parameters(), *start.generator.parameters()],
        )
    )
    _, found["told"] = train(engine, folder / "told", 3 if rank == 1 else None)
    _, found["resumed"] = train(engine, folder / "told")
    (folder / f"{rank}.json").write_text(json.dumps(found))

if __name__ == "__main__":
    main(sys.argv[1])
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> list[dict]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("both")
    (folder / "script.py").write_text(SCRIPT)
    environment = {
        **os.environ, "PYTHONPATH": str(Path(thinet.__file__).parents[1]), "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    done = warm.run(
        [sys.executable, folder / "script.py", folder], env=environment, cwd=folder, timeout=200,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_each_update_follows_the_mean_gradient_of_both(both):
    for one in both:
        assert one["moved"] > 1e-3
        assert one["apart"] < 1e-5
    assert both[0]["whole"]["digest"] == both[1]["whole"]["digest"]
    seeds = [seed for one in both for seed in one["whole"]["seeds"]]
    assert len(set(seeds)) == len(seeds) == 2 * 20


def test_told_to_stop_they_go_on_in_the_same_bits(both):
    for one in both:
        assert one["told"]["ended"]
        assert one["told"]["seeds"] + one["resumed"]["seeds"] == one["whole"]["seeds"]
        assert one["resumed"]["digest"] == one["whole"]["digest"]

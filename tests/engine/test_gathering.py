"""Two processes that gather features learn what one process with all images does."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import thinet
from tests import warm

SCRIPT = """
import csv, hashlib, json, sys
from functools import partial
from pathlib import Path
import torch
from torch import nn
from thinet.artifacts.store import dump_state
from thinet.datasets.class_sampler import ClassUniform
from thinet.datasets.digits import Digits
from thinet.engine.distilled import Distilled, Pupil
from thinet.engine.engine import Engine
from thinet.engine.gathering import everyones
from thinet.engine.lesson import Lesson
from thinet.engine.log_levels import silence_lightning
from thinet.engine.logging.loggers import RunCSVLogger
from thinet.engine.phases import Phase
from thinet.engine.settings import Devices, Training
from thinet.losses import correlation_congruence
from thinet.models.features import find_feature

TRAINING = Training(partial(torch.optim.SGD, lr=1.0, momentum=0.9))

def network(seed, width):
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.ReLU(), nn.Linear(width, 10))
    return Pupil(made, find_feature(made, torch.rand(2, 3, 8, 8)))

def train(engine, folder, batches):
    folder.mkdir(parents=True)
    engine.loggers = [RunCSVLogger(folder)] if engine.rank == 0 else []
    engine.step = 0
    lesson = Lesson(alpha=0.2, beta=20.0)
    one = Distilled(network(0, 12), network(1, 20), lesson, [Phase(2, 0.05)], TRAINING)
    engine.train(one, "stage", folder / "fit", batches)
    rows = []
    if engine.rank == 0:
        engine.loggers[0].save()
        with open(folder / "metrics.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    values = torch.cat([p.detach().flatten() for p in one.network.parameters()]).tolist()
    digest = hashlib.sha256(dump_state(one.network)).hexdigest()
    return {"rows": rows, "values": values, "digest": digest}

def uneven(engine):
    '''Three images here, five there: the gradient of all eight.'''
    torch.manual_seed(7)
    everything, theirs = torch.randn(8, 6), torch.randn(8, 4)
    part = slice(0, 3) if engine.rank == 0 else slice(3, 8)
    own = everything[part].clone().requires_grad_()
    loss = correlation_congruence(everyones(own), everyones(theirs[part]))
    loss.backward()
    whole = everything.clone().requires_grad_()
    alone = correlation_congruence(whole, theirs)
    alone.backward()
    # DDP takes the mean over processes, so a process has its rows' gradient times their number.
    apart = (own.grad - 2 * whole.grad[part]).abs().max() / whole.grad.abs().max()
    return {"loss": abs(loss.item() - alone.item()), "gradient": float(apart)}

def main(folder, world):
    data = Digits(image_size=8, batch_size=32, seed=3, num_classes=10)
    strategy = "ddp" if world > 1 else "auto"
    devices = Devices("cpu", world, strategy=strategy, progress="off", max_steps_per_epoch=6)
    engine = Engine(data, devices, seed=3)
    engine.start_processes()
    folder = Path(folder)
    found = {"shuffled": train(engine, folder / f"a{world}{engine.rank}", None)}
    found["by class"] = train(engine, folder / f"b{world}{engine.rank}", ClassUniform)
    if world == 2:
        found["uneven"] = uneven(engine)
    (folder / f"{world}-{engine.rank}.json").write_text(json.dumps(found))

if __name__ == "__main__":
    silence_lightning()
    main(sys.argv[1], 2)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict]:
    """What a process alone and each of two found."""
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
    alone: dict = {"__name__": "script"}
    exec(SCRIPT, alone)
    alone["main"](folder, 1)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.parametrize("kind", ["shuffled", "by class"])
def test_two_processes_are_one(kind, found):
    alone, first, second = (found[name][kind] for name in ("1-0", "2-0", "2-1"))
    assert first["digest"] == second["digest"]
    assert first["values"] == pytest.approx(alone["values"], abs=1e-5)
    assert len(first["rows"]) == len(alone["rows"]) == 2
    for ours, theirs in zip(first["rows"], alone["rows"], strict=True):
        terms = [key for key in theirs if key.startswith("train/") and "share" not in key]
        assert {"train/correlation", "train/soft_targets", "train/agreement"} < set(terms)
        for key in terms:
            if theirs[key]:
                assert float(ours[key]) == pytest.approx(float(theirs[key]), abs=1e-5), key


def test_shares_of_different_size_have_the_gradient_of_all(found):
    for name in ("2-0", "2-1"):
        assert found[name]["uneven"]["loss"] < 1e-6
        assert found[name]["uneven"]["gradient"] < 1e-5

"""What two processes of a run must agree on, with BatchNorm and dropout in the network."""

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
import hashlib, json, os, signal, sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
import torch
from torch import nn
from thinet.widths import choose as planning
from thinet.artifacts.store import dump_state
from thinet.datasets.digits import Digits
from thinet.engine.module import Learner
from thinet.engine.engine import Engine
from thinet.engine.subset import SubsetEvaluation
from thinet.engine.log_levels import silence_lightning
from thinet.engine.settings import Devices, Training
from thinet.base.errors import Terminated
from thinet.pruning.find_widths import find_counts
from thinet.metrics import cost
from thinet.widths.choose import Request
from thinet.engine.phases import Phase
from thinet.pruning.criteria import ThiNet
from thinet.pruning.reconstruction import Scale
from thinet.pruning.settings import Choosing
from thinet.pruning.statistics import Sampling
from thinet.training.images import OfDataSet
from thinet.widths.target import Target, Widths

STEPS = 12  # an epoch; after 8 of them the processes ask each other whether one was told to stop

def make(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 10),
    )

def digest(network):
    return hashlib.sha256(dump_state(network)).hexdigest()

def watch(found):
    step, end = Learner.training_step, Learner.on_train_epoch_end

    def on_step(self, batch, index):
        found["seeds"].append(torch.initial_seed())
        if len(found["seeds"]) == found.get("told", -1):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, index)

    def on_end(self):
        found["losses"].append(float(self.trainer.callback_metrics["train/loss"]))
        end(self)

    Learner.training_step, Learner.on_train_epoch_end = on_step, on_end
    return step, end

def train(engine, folder, told=None):
    network = make()
    found = {"seeds": [], "losses": [], "ended": False}
    if told is not None:
        found["told"] = told
    before = watch(found)
    training = Training(partial(torch.optim.SGD, lr=1.0, momentum=0.9), 0.1)
    try:
        engine.fit(network, [Phase(2, 0.05)], training, "stage", folder)
    except Terminated:
        found["ended"] = True
    finally:
        Learner.training_step, Learner.on_train_epoch_end = before
    return {**found, "digest": digest(network)}

def latencies(rank):
    # The first machine's time follows the FLOPs; on the second all cut networks are fast.
    def measured(networks, shape, **_):
        flops = [cost(one, shape).flops for one in networks]
        return flops if rank == 0 else [flops[0], 1e-3 * flops[1]]
    return measured

def main(folder, world):
    silence_lightning()
    data = Digits(image_size=8, batch_size=32, crop="pad", seed=3, num_classes=10,
                  calibration_per_class=2)
    devices = Devices("cpu", world, strategy="ddp" if world > 1 else "auto", progress="off",
                      max_steps_per_epoch=STEPS, checkpoint_minutes=60)
    engine = Engine(data, devices, seed=3)
    engine.start_processes()
    data.setup()
    rank = engine.rank
    found = {"agreed": engine.agree(f"of {rank}"), "gathered": engine.gather(rank)}
    planning.latencies_ms = latencies(rank)
    request = Request("all", widths=Widths(Target("latency", 0.5)))
    choosing = Choosing(ThiNet(), Scale(), "after", Sampling(), 16)
    found["counts"] = find_counts(
        request, choosing, engine, OfDataSet().begin(None, engine, make, False), make()
    )
    probe = SubsetEvaluation(engine, 45)
    probe.set_reference(make())
    found["probe"] = [probe.images, probe.measure(make(1))]
    other, splits = make(1), ("val", "test")
    found["accuracy"] = {split: asdict(engine.evaluate(other, split)) for split in splits}
    if world > 1:
        folder, network = Path(folder), make(rank)
        nn.init.constant_(network[1].running_mean, rank)
        own = digest(network)
        engine.share(network)
        found["shared"] = [own, digest(network)]
        found["whole"] = train(engine, folder / "whole")
        found["told"] = train(engine, folder / "told", 3 if rank == 1 else None)
        found["resumed"] = train(engine, folder / "told")
        found["step"] = engine.step
        (folder / f"{rank}.json").write_text(json.dumps(found))
    return found

if __name__ == "__main__":
    main(sys.argv[1], 2)
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


@pytest.fixture(scope="module")
def alone() -> dict:
    """What one process finds."""
    from thinet.widths import choose as planning

    script: dict = {"__name__": "script"}
    exec(SCRIPT, script)
    measured = planning.latencies_ms
    try:
        return json.loads(json.dumps(script["main"]("", 1)))
    finally:
        planning.latencies_ms = measured


def test_the_first_process_decides(both, alone):
    assert [one["agreed"] for one in both] == ["of 0", "of 0"]
    assert [one["gathered"] for one in both] == [[0, 1], [0, 1]]
    assert [one["counts"] for one in both] == [alone["counts"]] * 2


def test_two_processes_count_as_one(both, alone):
    for one in both:
        assert one["accuracy"] == alone["accuracy"]
        (images, figures), (wanted_images, wanted) = one["probe"], alone["probe"]
        assert images == wanted_images == 45
        assert figures == pytest.approx(wanted, rel=1e-6)
    assert both[0]["probe"] == both[1]["probe"]


def test_weights_and_batchnorm_statistics_are_those_of_the_first_process(both):
    (own, after), (others, others_after) = (one["shared"] for one in both)
    assert own != others
    assert after == others_after == own
    assert both[0]["whole"]["digest"] == both[1]["whole"]["digest"]


def test_each_process_draws_its_own_numbers_for_every_batch(both):
    seeds = [seed for one in both for seed in one["whole"]["seeds"]]
    assert len(set(seeds)) == len(seeds) == 2 * 24


def test_a_signal_to_one_process_ends_both_and_they_go_on_in_the_same_bits(both):
    """The loss of the interrupted epoch is that of all its batches, on both processes."""
    whole = both[0]["whole"]
    for one in both:
        assert one["told"]["ended"]
        assert len(one["told"]["seeds"]) == 9
        assert one["resumed"]["seeds"] == one["whole"]["seeds"][9:]
        assert one["resumed"]["digest"] == whole["digest"]
        assert one["resumed"]["losses"] == pytest.approx(whole["losses"], rel=1e-6)
        assert one["step"] == 2 * 24

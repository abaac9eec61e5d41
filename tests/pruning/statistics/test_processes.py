"""Two processes choose and correct as one does."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

import thinet
from tests import warm
from thinet.pruning.statistics import patches

# A script, so that the processes need nothing but thinet.
SCRIPT = """
import copy, json, sys
from pathlib import Path
import torch
from torch import nn
from thinet.pruning.criteria import APoZ, Criterion, Random, ThiNet, ThiNetOMP, WeightSum
from thinet.pruning.group import Calibration, prune_groups_
from thinet.pruning.reconstruction import NoReconstruction, Refit, Scale
from thinet.pruning.statistics import Reference, Sampling, patches
from thinet.surgery import trace

class Disagreeing(Criterion):
    def rank(self, candidates, evidence, seed):
        order = torch.arange(candidates.units)
        return order if self.place == 0 else order.flip(0)

def main(folder, rank, world):
    Disagreeing.place = rank
    if world > 1:
        meeting = f"file://{folder}/meeting"
        torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=world)
    images = torch.randn(13, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    records, states = [], {}
    for k, (criterion, reconstruction, exact, largest) in enumerate([
        (ThiNet(), Scale(), False, 9999), (ThiNetOMP(), Refit(), False, 9999),
        (APoZ(), Scale(), True, 9999), (Random(), Refit("original"), False, 9999),
        (WeightSum(), NoReconstruction(), False, 9999), (ThiNet(), Refit(), True, 9999),
        (Disagreeing(), NoReconstruction(), False, 9999), (ThiNet(), Refit(), True, 120),
    ]):
        patches.LARGEST = largest  # the last one keeps rows of the linear layer, not moments
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 10, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(160, 4),
        ).double()
        calibration = Calibration(
            list(images), Sampling(seed=2, exact=exact), 4, rank, world,
            reference=Reference(copy.deepcopy(net)),
        )
        graph = trace(net, images[:1])
        for name, count in (("0", 5), ("2", 4)):
            (record,), graph = prune_groups_(
                net, graph, {name: count}, criterion, reconstruction, calibration
            )
            records.append([record.kept, record.rows, record.error or 0.0])
        states[k] = net.state_dict()
    Path(folder, f"{rank}.json").write_text(json.dumps(records))
    torch.save(states, f"{folder}/{rank}.pt")

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), 2)
"""


def load(folder: Path, rank: int) -> tuple[list, dict]:
    return json.loads((folder / f"{rank}.json").read_text()), torch.load(folder / f"{rank}.pt")


def run_one(folder: Path) -> tuple[list, dict]:
    folder.mkdir()
    script: dict = {"__name__": "script"}
    exec(SCRIPT, script)
    script["main"](folder, 0, 1)
    return load(folder, 0)


def run_two(folder: Path) -> list[tuple[list, dict]]:
    folder.mkdir()
    root = str(Path(thinet.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, folder]
    processes = [warm.start([*command, str(rank)], env=environment) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    return [load(folder, rank) for rank in range(2)]


def test_two_processes_choose_and_correct_as_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(patches, "LARGEST", patches.LARGEST)  # the script sets it here too
    records, states = run_one(tmp_path / "one")
    both = run_two(tmp_path / "two")
    for others, _ in both:
        for ours, theirs in zip(records, others, strict=True):
            assert theirs[:2] == ours[:2]  # kept filters and rows
            assert theirs[2:] == pytest.approx(ours[2:], rel=1e-9, abs=0)
    assert [record[1] for record in records[:2]] == [13 * 10, 13 * 10]
    for key, state in states.items():
        for name, tensor in state.items():
            first, second = both[0][1][key][name], both[1][1][key][name]
            assert torch.equal(first, second)  # bit for bit between the processes
            torch.testing.assert_close(first, tensor, rtol=1e-9, atol=1e-9)

"""The first process decides and all learn, whatever each of them sees for itself."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import thinet
from tests import warm
from thinet.base.errors import ThinetError
from thinet.engine.engine import Engine
from thinet.engine.settings import Devices

# Two processes of gloo. Each writes what it learnt; the second one's own findings differ.
SCRIPT = """
import json, sys
from pathlib import Path
import torch
from torch import nn
import thinet
from tests import warm
from thinet.engine.engine import Engine
from thinet.engine.settings import Devices
from thinet.base.errors import DivergedError, ThinetError

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.distributed.init_process_group(
    "gloo", f"file://{folder}/meeting", rank=rank, world_size=2
)
engine = Engine(None, Devices("cpu", 2, strategy="ddp"))
found = {}

def fails_on(process):
    def choose():
        if rank == process:
            raise DivergedError(f"found by {rank}")
        return [rank]
    return choose

def outcome(call):
    try:
        return call()
    except ThinetError as error:
        return f"{type(error).__name__}: {error}"

found["second would fail"] = outcome(lambda: engine.decide(fails_on(1)))
found["first fails"] = outcome(lambda: engine.decide(fails_on(0)))
for name, seen in (("both", (0, 1)), ("none", ()), ("first only", (0,)), ("second only", (1,))):
    # Each process has a folder of its own here, as if a network drive were late.
    own = folder / f"sees{rank}"
    own.mkdir(exist_ok=True)
    path = own / name
    if rank in seen:
        path.touch()
    found[name] = outcome(lambda: engine.exists(path)).__repr__().split(str(own))[0][:40]

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3),
                    nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)).eval()
images = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
labels = torch.arange(12) % 4

def figures(result):
    return [[layer.kept for layer in result.layers],
            [float(t.double().sum()) for t in result.model.state_dict().values()]]

half = slice(6 * rank, 6 * rank + 6)
shares = [(images[half], labels[half])]
for criterion in ("thinet", "taylor"):
    shared = thinet.prune(net, shares, criterion=criterion, distributed=True)
    found[criterion] = figures(shared)

for name, own in (("no images", []), ("broken images", ({}["no such key"] for _ in [0]))):
    try:
        thinet.prune(net, shares if rank == 0 else own, distributed=True)
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"

def measured(networks, shape):  # on another machine the slim one is as slow as the full one
    return [1.0 if rank else float(thinet.cost(one, shape).flops) for one in networks]

thinet.widths.choose.latencies_ms = measured
found["latency"] = figures(thinet.prune(net, shares, target="latency:0.6", distributed=True))
if rank == 0:  # the other one does not call it: nothing to wait for
    found["alone"] = figures(thinet.prune(net, [images]))
    found["alone, by loss"] = figures(thinet.prune(net, [(images, labels)], criterion="taylor"))
(folder / f"{rank}.json").write_text(json.dumps(found))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("two")
    root = str(Path(thinet.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    processes = [warm.start([*command, str(rank)], env=environment) for rank in range(2)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_only_the_first_one_chooses(found):
    assert [one["second would fail"] for one in found] == [[0], [0]]


def test_an_error_of_the_first_is_everybodys(found):
    assert [one["first fails"] for one in found] == ["DivergedError: found by 0"] * 2


def test_a_file_is_there_if_the_first_sees_it(found):
    assert [one["both"] for one in found] == ["True", "True"]
    assert [one["none"] for one in found] == ["False", "False"]
    assert [one["second only"] for one in found] == ["False", "False"]


def test_a_file_that_one_process_misses_is_an_error_on_all(found):
    assert all("ThinetError" in one["first only"] for one in found)


def test_prune_called_by_one_process_waits_for_no_other(found):
    assert "alone" in found[0]
    assert "alone" not in found[1]


@pytest.mark.parametrize(
    ("criterion", "alone"), [("thinet", "alone"), ("taylor", "alone, by loss")]
)
def test_processes_that_prune_together_do_as_one_with_all_images(found, criterion, alone):
    assert found[0][criterion] == found[1][criterion]
    kept, sums = found[0][criterion]
    assert kept == found[0][alone][0]
    assert sums == pytest.approx(found[0][alone][1], rel=1e-4, abs=1e-4)


def test_an_image_that_one_process_cannot_read_is_an_error_on_all(found):
    first, second = (one["no images"] for one in found)
    assert first.startswith(
        "ThinetError: process 1 has no images to share: batches holds no images"
    )
    assert second.startswith("ThinetError: batches holds no images")
    assert [one["broken images"].partition(":")[0] for one in found] == ["ThinetError", "KeyError"]


def test_the_first_measures_for_all(found):
    assert found[0]["latency"] == found[1]["latency"]


def test_one_process_decides_for_itself():
    engine = Engine(None, Devices("cpu"))

    def fail():
        raise ThinetError("no")

    assert engine.decide(lambda: 3) == 3
    with pytest.raises(ThinetError, match="no"):
        engine.decide(fail)


def test_prune_together_needs_a_group():
    import torch
    from torch import nn

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with pytest.raises(ThinetError, match="init_process_group"):
        thinet.prune(net, [torch.randn(2, 3, 8, 8)], distributed=True)

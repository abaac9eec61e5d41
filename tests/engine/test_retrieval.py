"""Engine.evaluate where test images look for their like by features."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import thinet
from tests import warm
from tests.metrics.test_retrieval import by_hand, similarities
from thinet.base.errors import ThinetError
from thinet.base.evaluation import RETRIEVAL
from thinet.datasets.images import NumberedView
from thinet.datasets.reading import ImageError
from thinet.datasets.retrieval import Retrieval
from thinet.datasets.unreadable import Unreadable
from thinet.engine.settings import Accuracy

SCRIPT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
import torch
from torch import nn
from thinet.datasets.digits import Digits
from thinet.datasets.reading import ImageError
from thinet.datasets.unreadable import Unreadable
from thinet.engine.engine import Engine
from thinet.engine.log_levels import silence_lightning
from thinet.engine.settings import Devices

def main(folder, world):
    silence_lightning()
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)
    )
    data = Digits(image_size=8, batch_size=32, crop="pad", seed=3, num_classes=10,
                  max_unreadable=0.01)
    devices = Devices("cpu", world, strategy="ddp" if world > 1 else "auto", progress="off")
    engine = Engine(data, devices, seed=3, evaluation="retrieval")
    engine.start_processes()
    data.setup()
    load = data._test.images.load
    def broken(index):
        if index in (4, 11):
            raise ImageError("broken", Unreadable(f"{index}.png", "broken"))
        return load(index)
    data._test.images.load = broken
    found = {split: asdict(engine.evaluate(network, split)) for split in ("test", "val")}
    if world > 1:
        Path(folder, f"{engine.rank}.json").write_text(json.dumps(found))
    return found

if __name__ == "__main__":
    main(sys.argv[1], 2)
"""


@pytest.fixture
def looking(engine):
    """The engine of a run with ``evaluate=retrieval``."""
    engine.evaluation = RETRIEVAL
    return engine


def features_of(network: nn.Module, data) -> torch.Tensor:
    """The input of the last layer, image by image in order."""
    data.setup()
    with torch.no_grad():
        images = torch.stack([data._test[place][0] for place in range(len(data._test))])
        return network.eval()[:-1](images)


def mean(rows) -> Accuracy:
    return Accuracy(*np.nanmean(np.array(rows), axis=0).tolist())


def test_it_is_what_a_loop_finds_in_the_features(looking, make_network):
    network = make_network()
    features = features_of(make_network(), looking.data)
    wanted = mean(by_hand(similarities(features), looking.data.retrieval()))
    found = looking.evaluate(network, "test")
    assert vars(found) == pytest.approx(vars(wanted), abs=1e-4)
    assert 0.5 < found.top1 < found.top5 < found.top10 < 1
    assert 0 < found.mean_ap < found.top1


def test_queries_cameras_and_distractors_are_those_of_the_data_set(
    looking, make_network, monkeypatch
):
    random, count = torch.Generator().manual_seed(0), 359
    search = Retrieval(
        torch.randint(-1, 60, (count,), generator=random),
        torch.randint(0, 2, (count,), generator=random),
        torch.arange(0, 100), torch.arange(90, count - 20),
    )  # fmt: skip
    monkeypatch.setattr(looking.data, "retrieval", lambda: search)
    rows = by_hand(similarities(features_of(make_network(), looking.data)), search)
    assert 0 < np.isnan(np.array(rows)).any(axis=1).sum() < 100
    found = looking.evaluate(make_network(), "test")
    assert vars(found) == pytest.approx(vars(mean(rows)), abs=1e-6)


def test_validation_images_are_classified(looking, make_network):
    found = looking.evaluate(make_network(), "val")
    assert (found.top10, found.mean_ap) == (None, None)
    looking.evaluate(make_network(), "test")
    looking.evaluation = "classification"
    assert looking.evaluate(make_network(), "val") == found
    assert looking.evaluate(make_network(), "test").mean_ap is None


def test_images_that_cannot_be_read_neither_look_nor_are_found(looking, make_network, monkeypatch):
    features = features_of(make_network(), looking.data)
    whole = looking.data.retrieval()
    load, broken = looking.data._test.images.load, (0, 33, 34)
    looking.data.unreadable.fraction = 0.01

    def unreadable(index):
        if index in broken:
            raise ImageError("broken", Unreadable(f"{index}.png", "broken"))
        return load(index)

    monkeypatch.setattr(looking.data._test.images, "load", unreadable)
    left = torch.tensor([place for place in range(359) if place not in broken])
    wanted = mean(by_hand(similarities(features), replace(whole, query=left, gallery=left)))
    found = looking.evaluate(make_network(), "test")
    assert vars(found) == pytest.approx(vars(wanted), abs=1e-4)
    assert len(looking.data.unreadable.found) == 3


def test_two_processes_find_what_one_finds(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    root = Path(thinet.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = warm.run(
        [sys.executable, tmp_path / "script.py", tmp_path], env=environment, cwd=tmp_path,
        timeout=200, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    script: dict = {"__name__": "script"}
    exec(SCRIPT, script)
    alone = script["main"]("", 1)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone
    assert 0 < alone["test"]["mean_ap"] < alone["test"]["top1"] < 1


def test_it_runs_in_the_precision_asked_for_and_compares_in_float32(
    looking, make_network, monkeypatch
):
    seen = []
    monkeypatch.setattr("thinet.engine.retrieval.search", lambda *a: seen.append(a) or _ones())
    looking.devices = replace(looking.devices, precision="bf16-mixed")
    network = make_network()
    hooked = network[0].register_forward_hook(lambda _m, _a, out: seen.append(out.dtype))
    looking.evaluate(network, "test")
    hooked.remove()
    assert torch.bfloat16 in seen
    assert seen[-1][0].dtype == torch.float32
    assert not network[-1]._forward_pre_hooks


def _ones() -> torch.Tensor:
    return torch.ones(359, 4, dtype=torch.float64)


def test_nothing_stays_behind_when_it_fails(looking, make_network, monkeypatch):
    def fail(*_):
        raise RuntimeError("in mid-pass")

    monkeypatch.setattr("thinet.engine.retrieval.Embedder.test_step", fail)
    network = make_network()
    with pytest.raises(RuntimeError, match="mid-pass"):
        looking.evaluate(network, "test")
    assert looking.data.numbered is False
    assert not network[-1]._forward_pre_hooks
    looking.evaluation = "classification"
    assert 0 < looking.evaluate(network, "test").top1 < 1


def test_a_numbered_view_gives_places(engine):
    engine.data.setup()
    test = engine.data._test
    view = NumberedView(test.images, test.positions[5:], test.transform)
    image, place = view[2]
    assert place == 2
    assert torch.equal(image, test[7][0])


def test_where_nothing_can_be_found_one_sentence(looking, make_network, monkeypatch):
    alone = Retrieval(torch.arange(359), None, *2 * [torch.arange(359)])
    monkeypatch.setattr(looking.data, "retrieval", lambda: alone)
    with pytest.raises(ThinetError, match="type evaluate=classification"):
        looking.evaluate(make_network(), "test")

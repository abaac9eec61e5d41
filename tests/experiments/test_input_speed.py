"""The input study on tiny pictures: it measures what it says it measures. No timings."""

from __future__ import annotations

import csv
import itertools

import pytest
import torch
from PIL import Image

pytest.importorskip("torchcodec", reason="the extra 'fast' is not installed")

from experiments.input_speed import candidates, pictures
from experiments.input_speed import run as input_speed
from thinet.datasets.reading import read_image
from thinet.engine.settings import Devices
from thinet.models.small_vgg import vgg_small

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> input_speed.Setting:
    root = tmp_path_factory.mktemp("pictures")
    pictures.write_tree(root, 14, 10, scale=0.1)
    return input_speed.Setting(root, size=16, batch=4)


def test_pictures_are_as_large_as_imagenets(tmp_path):
    mean = pictures.write_tree(tmp_path, 4, 4)
    assert 90_000 < mean < 140_000  # ImageNet's training files: 138 GB / 1.28 million = 108 kB
    files = sorted(tmp_path.rglob("*.JPEG"))
    assert len(files) == 8
    assert {Image.open(file).size for file in files} == {(500, 375), (500, 333)}
    assert len({file.read_bytes() for file in files}) == 8
    assert pictures.jpeg(0, (50, 40)) == pictures.jpeg(0, (50, 40))


@pytest.mark.parametrize("protocol", list(input_speed.PROTOCOLS))
def test_a_turn_loads_every_image_of_its_part(setting, protocol):
    seen = []
    for loader in input_speed.LOADERS:
        task, images = input_speed.walk(setting, loader, 0, protocol)
        assert task() == images
        seen.append(images)
    assert seen == [10, 10] if protocol == "evaluation" else [12, 12]  # two of 14 validate


def test_throughput_is_images_over_seconds(setting, monkeypatch):
    seconds = {"pil": [4.0, 2.0, 8.0], "torchcodec": [2.0, 1.0, 2.0]}
    monkeypatch.setattr(input_speed, "take_turns", lambda tasks, *_, **__: seconds)
    rows = input_speed.throughput(setting, "evaluation", 0, 3, 0)
    assert [row["images_per_second"] for row in rows] == [2.5, 5.0]
    assert [row["over_pil"] for row in rows] == [1.0, 2.0]


def test_waiting_is_what_passes_between_asking_and_getting(monkeypatch):
    ticks = iter([0, 5, 6, 7, 10, 14, 20])  # asked, came, asked, came ... and asked once more
    monkeypatch.setattr(input_speed.time, "perf_counter", lambda: float(next(ticks)))

    class Loader(list):
        sampler = "the sampler that Lightning tells the epoch"

    clocked = input_speed.Clocked(Loader("abc"))
    assert clocked.sampler == Loader.sampler
    assert list(clocked) == ["a", "b", "c"]
    # after the first batch: 1 s of 2 and 4 s of 7; the first batch's 5 s are no part of it
    assert clocked.share() == pytest.approx(5 / 9)
    assert clocked.per_second(8) == pytest.approx(16 / 9)


def test_the_study_measures_and_draws(setting, monkeypatch, tmp_path):
    monkeypatch.setattr(
        input_speed, "NETWORKS", {"small": lambda num_classes: vgg_small(num_classes, 16)}
    )
    devices = Devices("cpu", progress="off", max_steps_per_epoch=3)
    before = itertools.count()
    monkeypatch.setattr(
        input_speed.Clocked, "share", lambda self: next(before) + 0 * len(self.came)
    )
    rows = input_speed.throughput(setting, "training, random", 0, rounds=1, patience=0)
    rows += input_speed.waiting(setting, "small", 0, devices, rounds=2, patience=0)
    waits = [row for row in rows if row["part"] == "waiting"]
    # the loaders take turns, the order moving on: pil 0 and 3, torchcodec 1 and 2
    assert [(row["loader"], row["waiting"], row["spread"]) for row in waits] == [
        ("pil", 1.5, 1.5), ("torchcodec", 1.5, 0.5)
    ]  # fmt: skip
    input_speed.draw(rows, "tiny", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[1:4] == b"PNG"


def test_the_command_writes_its_table(tmp_path, capsys):
    input_speed.main(["--smoke", "--out", str(tmp_path)])
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 + 2
    assert {row["loader"] for row in rows} == set(input_speed.LOADERS)
    assert all(0 <= float(row["waiting"]) <= 1 for row in rows if row["part"] == "waiting")
    assert "images/s" in capsys.readouterr().out


def test_candidates_decode_the_same_pictures(setting):
    files = [str(file) for file in sorted(setting.root.rglob("*.JPEG"))[:3]]
    found = {
        name: one
        for name, one in candidates.candidates().items()
        if name in ("Pillow", "Pillow, tensor resize", "TorchCodec")
    }
    rows = {row["library"]: row for row in candidates.measure(found, files, 16, rounds=1)}
    assert rows["Pillow"]["differs"] == 0
    assert 0 < rows["TorchCodec"]["differs"] < 1
    assert torch.equal(found["Pillow, tensor resize"][0](files[0]),
                       candidates.tensor(candidates.np.array(read_image(files[0]))))  # fmt: skip

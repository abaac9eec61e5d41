"""The criterion study on noise: every part runs, and the tables say what was measured."""

from __future__ import annotations

import argparse

import pytest
import torch

from experiments import cifar
from experiments.cifar import Images, read_rows
from experiments.criteria_cifar10 import run as study
from experiments.criteria_cifar10.figure import draw
from experiments.criteria_cifar10.tables import tables
from thinet.metrics import cost
from thinet.models.cifar_resnet import resnet20
from thinet.models.vgg import vgg16_gap

TUNING = {"epochs": 1, "images": 16, "baseline": 1}


def noise(count: int, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(0, 10, (count,), generator=generator))


@pytest.fixture
def data() -> cifar.Data:
    return cifar.split(noise(80), noise(20, seed=1), validation=20)


@pytest.fixture
def thin(monkeypatch) -> torch.nn.Module:
    monkeypatch.setattr(cifar, "WIDTH", 1 / 16)
    monkeypatch.setattr(study, "IMAGES", 40)
    monkeypatch.setattr(study, "BASELINE", {"epochs": 1, "rate": 0.01, "batch": 16})
    torch.manual_seed(0)
    return vgg16_gap(10, 32, width=1 / 16).eval()


def test_the_layers_are_the_papers():
    kept = study.inner_layers(vgg16_gap(10, 32), "vgg16_gap")
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
    assert kept == [f"features.{place}" for place in places]
    blocks = study.inner_layers(resnet20(10, 32), "resnet56")
    assert blocks == [f"layer{k}.{j}.conv1" for k in (1, 2, 3) for j in range(3)]


@pytest.mark.parametrize("way", study.WAYS)
def test_every_way_prunes_to_the_same_cost(way, thin, data):
    layers = study.inner_layers(thin, "vgg16_gap")
    slim = study.prune(thin, layers, study.WAYS[way], 0.5, data, 0)
    other = study.prune(thin, layers, study.WAYS["weight sum"], 0.5, data, 0)
    assert cost(slim, study.SHAPE).flops == cost(other, study.SHAPE).flops


def test_scratch_has_the_widths_of_pruning(thin, data):
    layers = study.inner_layers(thin, "vgg16_gap")
    found = study.from_scratch(layers, {"seed": 0, "ratio": 0.5}, data, TUNING)
    slim = study.prune(thin, layers, study.WAYS["weight sum"], 0.5, data, 0)
    assert found["params"] == cost(slim, study.SHAPE).params
    assert found["mflops"] == cost(slim, study.SHAPE).flops / 1e6


def options(tmp_path, **more):
    chosen = {
        "model": "vgg16_gap", "seeds": [0, 1], "only": ["ratios", "single", "scratch"],
        "ratios": [0.5], "scratch": [0.5], "epochs": 1, "finetune_images": 16, "out": tmp_path,
        "ways": ["weight sum"], "layers": None, "baseline": 1,
    }  # fmt: skip
    return argparse.Namespace(**{**chosen, **more})


def test_what_is_measured_is_not_measured_again(thin, data, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "PAPER", 2)
    study.fill(options(tmp_path), thin, data)
    counts = {part: len(read_rows(tmp_path / f"{part}.csv")) for part in study.PARTS}
    assert counts == {"ratios": 2, "single": 4, "scratch": 2}
    monkeypatch.setattr(study, "measure", None)
    study.fill(options(tmp_path), thin, data)
    rows = {part: read_rows(tmp_path / f"{part}.csv") for part in (*study.PARTS, "baseline")}
    text = tables(rows)
    assert "| weight sum |" in text
    assert "from scratch, equal epochs" in text
    draw(rows, tmp_path)
    assert (tmp_path / "vgg16_gap.png").stat().st_size > 10_000
    assert (tmp_path / "vgg16_gap_single.png").stat().st_size > 10_000


def test_tables_give_mean_and_spread_over_seeds():
    common = {"part": "ratios", "model": "resnet56", "way": "ThiNet", "ratio": "0.5",
              "epochs": "2", "images": "5000", "mflops": "60", "params": "1"}  # fmt: skip
    ratios = [
        {**common, "seed": str(seed), "test_plain": "1", "test": str(70 + seed),
         "test_finetuned": str(80 + 2 * seed)} for seed in (0, 1, 2)
    ]  # fmt: skip
    base = [{"model": "resnet56", "test": "83", "mflops": "125", "params": "2"}]
    text = tables({"baseline": base, "ratios": ratios, "single": [], "scratch": []})
    assert "| ThiNet | 71.00 ± 1.00 |" in text
    assert "| ThiNet | 82.00 ± 2.00 |" in text

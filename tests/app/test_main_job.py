"""The main job from start to finish, small: what it prints, what it leaves, what it repeats."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import thinet
from thinet.artifacts.store import read_spec


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """What the run printed that the tests look at: there is one for all of them."""
    return []


@pytest.fixture
def finished(type_, tiny, outputs, printed) -> tuple[Path, str]:
    if not printed:
        outcome = type_(*tiny, "logger=[tensorboard,wandb]", f"paths.outputs={outputs}")
        assert outcome.code == 0, outcome.err
        printed.append(outcome.out)
    (state,) = outputs.glob("*/state.json")
    return state.parent, printed[0]


def test_a_run_leaves_a_slim_network_and_every_file(finished):
    folder, printed = finished
    result = json.loads((folder / "result.json").read_text())
    assert [layer["filters_after"] for layer in result["details"]["pruning"]["layers"]] == [
        layer["filters_before"] // 2 for layer in result["details"]["pruning"]["layers"]
    ]
    assert "features.0" in printed
    assert "keeps 2 of 4" in printed
    for name in ("report.html", "run.log", "layers.csv", "metrics.csv", ".hydra/config.yaml"):
        assert (folder / name).stat().st_size > 0, name
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "accuracy.png", "cost.png", "widths.png",
    }  # fmt: skip
    assert list((folder / "tensorboard").iterdir())
    assert list((folder / "wandb").glob("offline-run-*"))


def test_the_saved_network_has_the_accuracy_that_was_reported(finished):
    from thinet.datasets.digits import Digits

    folder, _ = finished
    result = json.loads((folder / "result.json").read_text())
    spec = read_spec(folder / "model")
    data = Digits(image_size=8, num_classes=10, seed=0, resize="none", crop="none", flip=False)
    data.setup()
    net = thinet.load(folder / "model")
    hits = images = 0
    for batch, labels in data.test_dataloader():
        with torch.no_grad():
            hits += int((net(batch).argmax(dim=1) == labels).sum())
        images += len(labels)
    assert images == 359
    assert hits / images == pytest.approx(result["model"]["top1"], abs=1e-6)
    assert spec.metrics["flops"] == result["model"]["flops"] == thinet.cost(net, (3, 8, 8)).flops


def test_stages_are_on_one_growing_axis_against_the_compression_rate(finished):
    folder, _ = finished
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    steps = [float(row["step"]) for row in rows]
    assert steps == sorted(steps)
    rates = [float(row["compression_rate"]) for row in rows if row["compression_rate"]]
    assert len(rates) == 3
    assert rates == sorted(rates)
    assert rates[0] > 0


def test_a_finished_configuration_is_shown_and_not_run_again(finished, type_, tiny, outputs):
    folder, _ = finished
    tiny = (*tiny, f"paths.outputs={outputs}")
    before = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    again = type_(*tiny)
    assert again.code == 0
    assert "has been run before" in again.out
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == before
    anew = type_(*tiny, "resume=off")
    assert anew.code == 0
    assert "has been run before" not in anew.out
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns > before


def test_a_dry_run_touches_no_data_and_leaves_nothing(type_, tmp_path):
    outcome = type_("dry_run=true", "dataset=imagenet", "model=vgg16")
    assert outcome.code == 0
    for figure in ("30.94 B", "9.58 B", "138.34 M (weights)", "131.44 M (weights)"):
        assert figure in outcome.out
    assert "keeps 32 of 64" in outcome.out
    assert not list((tmp_path / "outputs").rglob("*.*"))


def test_a_terminal_gets_a_bar_with_the_name_of_the_stage(type_, tiny):
    outcome = type_(*tiny, "trainer.progress=bar")
    assert outcome.code == 0, outcome.err
    assert "stage features.0: epoch 1/1" in outcome.out + outcome.err


def test_the_train_method_runs_alone(type_, tiny, tmp_path):
    outcome = type_(*tiny, "method=train")
    assert outcome.code == 0, outcome.err
    (path,) = (tmp_path / "outputs").glob("*/result.json")
    result = json.loads(path.read_text())
    assert result["model"] is None
    assert result["reference"]["top1"] > 0
    assert (path.parent / "model" / "spec.json").exists()

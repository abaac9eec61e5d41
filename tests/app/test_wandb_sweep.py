"""The file for ``wandb sweep``: what W&B's agent makes of it is a valid command of ours."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml

from thinet.app.config import build, check
from thinet.engine.logging.sending import Summary

FILE = Path(__file__).parents[2] / "docs" / "wandb_sweep.yaml"
SWEEP = yaml.safe_load(FILE.read_text())
PARAMETERS = SWEEP["parameters"]


def choices(parameter):
    return parameter.get("values") or [parameter["min"], parameter["max"]]


POINTS = [
    dict(zip(PARAMETERS, values, strict=True))
    for values in itertools.product(*map(choices, PARAMETERS.values()))
]


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_every_corner_is_a_valid_configuration(point, compose):
    agent = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    command = {"args": {key: {"value": value} for key, value in point.items()}}
    made = agent.create_sweep_command_args(command)["args_no_hyphens"]
    fixed = [text for text in SWEEP["command"] if not text.startswith("${")]
    config = check(compose(*fixed, *made))
    build(config)
    assert config["criterion"]["name"] == point["criterion"]
    assert config["ratio"] == point["ratio"]
    assert config["finetune"]["final"]["lr"] == point["finetune.final.lr"]
    assert "wandb" in config["logger"]


def test_the_agent_starts_run_py_with_the_values_alone():
    assert SWEEP["program"] == "run.py"
    assert SWEEP["command"][:3] == ["${env}", "${interpreter}", "${program}"]
    assert SWEEP["command"][-1] == "${args_no_hyphens}"


def test_the_objective_is_what_a_run_sends_and_not_test_accuracy():
    figures = {"top1": 0.9, "val_top1": 0.8}
    sent = Summary("run", figures, {**figures, "val_top1": 0.7}, Path()).numbers()
    assert SWEEP["metric"]["name"] == "model/val_top1"
    assert sent["model/val_top1"] == 0.7

"""What a finished run leaves, and what becomes of it when it is typed again."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import thinet
from thinet.app.main import run

FINISHED = {}


@pytest.fixture
def outputs(compose_tiny, tmp_path, tmp_path_factory):
    """``outputs/`` with one finished run, made once, and a copy for every test."""
    if not FINISHED:
        root = tmp_path_factory.mktemp("finished")
        cfg = compose_tiny(f"paths.outputs={root}/outputs", "name=tiny", "schedule=oneshot")
        run(cfg)
        FINISHED["root"] = root / "outputs"
    shutil.copytree(FINISHED["root"], tmp_path / "outputs")
    return tmp_path / "outputs"


def test_a_finished_run_holds_everything(outputs):
    found = {path.name for path in (outputs / "tiny").iterdir()}
    assert found >= {
        "run.log", "metrics.csv", "layers.csv", "result.json", "state.json", "model", "figures",
        "report.html",
    }  # fmt: skip
    result = json.loads((outputs / "tiny" / "result.json").read_text())
    state = json.loads((outputs / "tiny" / "state.json").read_text())
    assert state["status"] == "complete"
    assert (result["run"]["method"], result["run"]["name"]) == ("prune", "tiny")
    settings = result["settings"]
    assert (settings["criterion"], settings["reconstruction"]) == ("thinet", "scale")
    assert (settings["ratio"], result["sizes"][0]) == (0.5, "ratio")
    assert result["run"]["seconds"] > 0
    assert result["environment"]["torch"] == torch.__version__.partition("+")[0] or result[
        "environment"
    ]["torch"].startswith(torch.__version__[:4])
    assert result["config"]["model"]["build"]["widths"] == [4, 8]


def test_a_finished_run_is_shown_again_and_not_repeated(outputs, compose_tiny, monkeypatch, capsys):
    cfg = compose_tiny(f"paths.outputs={outputs}", "name=tiny", "schedule=oneshot", "logger=wandb")
    before = (outputs / "tiny" / "result.json").read_bytes()
    monkeypatch.setattr("thinet.app.main._work", lambda *_: pytest.fail("it was run again"))
    value = run(cfg)
    assert value == json.loads(before)["model"]["val_top1"]
    assert "resume=off runs it again" in capsys.readouterr().out
    assert (outputs / "tiny" / "result.json").read_bytes() == before


def test_resume_off_runs_again_to_the_same_bits(outputs, compose_tiny):
    tensors = outputs / "tiny" / "model" / "model.safetensors"
    before, rows = tensors.read_bytes(), (outputs / "tiny" / "metrics.csv").read_text()
    tensors.unlink()
    run(compose_tiny(f"paths.outputs={outputs}", "name=tiny", "schedule=oneshot", "resume=off"))
    assert tensors.read_bytes() == before
    count = (outputs / "tiny" / "metrics.csv").read_text().count("\n")
    assert count <= rows.count("\n"), "rows of the earlier run were kept"


def test_another_configuration_in_the_same_folder_is_refused(outputs, compose_tiny):
    with pytest.raises(thinet.ThinetError, match="another configuration"):
        run(compose_tiny(f"paths.outputs={outputs}", "name=tiny", "ratio=0.25"))

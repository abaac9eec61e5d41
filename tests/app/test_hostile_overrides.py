"""Hostile command lines and recipes as they are typed: one sentence, and nothing of theirs runs."""

from __future__ import annotations

import os

import pytest


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["name=../../x"], "cannot be the name of a run's folder"),
        (["criterion.build._target_=os.system"], "is refused"),
        (["+criterion.build._partial_=true"], "is refused"),
        (["finetune.optimizer._target_=torch.hub.load"], "is refused"),
        (["ratio=@/dev/zero"], "is not a regular file"),
        (["ratio={_target_:os.system}"], "is refused"),
        (["hydra.run.dir=/tmp/thinet-elsewhere"], "is refused"),
        (["hydra.output_subdir=../../x"], "is refused"),
        (["+hydra.job.env_set.LD_PRELOAD=/tmp/x.so"], "is refused"),
        (["+hydra.callbacks.x={_target_:os.system,command:id}"], "is refused"),
        (["hydra.searchpath=[pkg://antigravity]"], "is refused"),
        (["method.name=../x"], "is not a method"),
        (["method.sizes=null"], "method.sizes is refused"),
        (["+method.usual.ratio=0.5"], "method.usual.ratio is refused"),
        (["method.label=x"], "method.label is refused"),
        (["note='${oc.env:AWS_SECRET_ACCESS_KEY}'"], "is refused"),
        (["model=torchvision", "model.name=../../x"], "called '../../x'"),
        (["model.name=\x1b[2J"], "is not of the form key=value"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_it_is_refused_in_a_sentence(type_, tmp_path, arguments, words):
    outcome = type_("dry_run=true", *arguments)
    assert outcome.code == 2, outcome
    assert words in outcome.err
    assert outcome.err.startswith("error: ")
    assert len(outcome.err.strip().splitlines()) == 1
    assert "Traceback" not in outcome.err
    assert "\x1b" not in outcome.err
    assert not list(tmp_path.rglob("result.json"))


def test_a_pipe_in_place_of_ratios_or_weights_does_not_hang(type_, tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    assert "is not a regular file" in type_("dry_run=true", f"ratio=@{tmp_path}/pipe.pth").err
    assert type_("dry_run=true", f"model.weights={tmp_path}/pipe.pth").code == 2


def test_names_and_notes_stay_in_their_place(type_, tmp_path):
    hostile = "<script>alert(1)<script>"
    outcome = type_("dry_run=true", f"note='{hostile}'", "model.name=../../x", "dataset.name=x")
    assert outcome.code == 0, outcome.err
    assert {path.name for path in tmp_path.iterdir()} <= {"outputs"}


def test_a_strangers_recipe_among_the_points_of_a_sweep(process, tmp_path, monkeypatch):
    """The points are composed in the workers' own processes, and are judged there too."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)  # tests in this process leave it behind
    theirs = tmp_path / "theirs" / "experiment"
    theirs.mkdir(parents=True)
    (theirs / "evil.yaml").write_text(f"""# @package _global_
hydra:
  job_logging:
    version: 1
    handlers: {{h: {{"()": os.system, command: touch {tmp_path}/ran}}}}
    root: {{handlers: [h]}}
""")
    (theirs / "fine.yaml").write_text("# @package _global_\nnote: fine\n")
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = process(
        "-m", "sweep=joblib", "dry_run=true", f"paths.outputs={tmp_path}/outputs",
        f"hydra.searchpath=[file://{tmp_path}/theirs]", "experiment=fine,evil",
    )  # fmt: skip
    assert not (tmp_path / "ran").exists()
    assert "could run code" in done.stderr
    assert done.returncode == 2

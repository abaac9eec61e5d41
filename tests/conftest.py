from __future__ import annotations

import os

# Small tensors: a second thread costs more than it brings, here and in processes started from here.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import copy
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from thinet.run.identity import register_resolvers

if TYPE_CHECKING:
    import torch

CONF = Path(__file__).parents[1] / "conf"
TINY = (
    "model.build.widths=[4,8]",
    "model.paper_layers=[features.0,features.3,features.7]",
    "dataset.image_size=8",
    "dataset.calibration_per_class=2",
    "trainer=cpu",
    "trainer.progress=off",
    "trainer.max_steps_per_epoch=2",
    "baseline.epochs=1",
    "finetune.stage.epochs=1",
    "finetune.final.epochs=1",
)


QUIET = ("exists and is not empty", "The number of training batches", "LeafSpec")


LONG = (
    "app/test_faults.py", "app/test_sweep_launchers.py", "app/test_processes.py",
    "experiments/test_on_gpu.py", "app/test_recipes.py", "app/test_gpu.py", "app/test_starts.py",
    "experiments/test_smoke.py", "app/test_others_files.py", "app/test_bad_input.py",
    "app/test_sweep.py", "app/test_toy_family.py", "app/test_main_job.py",
    "artifacts/test_inherit.py", "engine/test_processes.py", "experiments/test_run_kills.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first: no worker is left alone with one of them at the end."""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get("/".join(item.path.parts[-2:]), len(LONG)))


def pytest_configure(config: pytest.Config) -> None:
    """What Lightning says about tiny runs; a real run filters the same in ``silence_lightning``."""
    for text in QUIET:
        config.addinivalue_line("filterwarnings", f"ignore:.*{text}.*")


@pytest.fixture(autouse=True)
def _no_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test talks to the network, whatever keys the machine has."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.fixture(autouse=True)
def _hears_ctrl_c() -> Iterator[None]:
    """A trainer that is interrupted in a test leaves its process deaf to Ctrl-C."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    """``cuda:0``, pretended: see :mod:`tests.pretended_cuda`."""
    from tests.pretended_cuda import pretended_cuda

    with pretended_cuda() as device:
        yield device


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose("config", list(overrides))


@pytest.fixture
def compose(tmp_path: Path) -> Callable[..., DictConfig]:
    """``compose("model=vgg16", ...)``: what ``python run.py`` would see, writing to tmp_path."""

    def make(*overrides: str) -> DictConfig:
        cfg = copy.deepcopy(_composed(overrides))
        for key in ("outputs", "data"):
            if not any(one.startswith(f"paths.{key}=") for one in overrides):
                cfg.paths[key] = str(tmp_path / key)
        return cfg

    return make


@pytest.fixture
def compose_tiny(compose: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    """A run of a second: three narrow layers, digits at their own 8x8, two steps an epoch."""
    return lambda *overrides: compose(*TINY, *overrides)


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """The overrides that make the default job a run of a second; its accuracy means nothing."""
    return TINY


@pytest.fixture
def fresh() -> Callable[..., Any]:
    """``fresh("module:function", *arguments, cold=False)``: call it in a process of its own.

    What a process holds depends on all that it did before, other tests included. Arguments and
    result travel as JSON. A cold one shares no memory with a process that it was forked from.
    """
    from tests import warm

    def call(name: str, *arguments: Any, cold: bool = False) -> Any:
        module, _, function = name.partition(":")
        program = (
            "import json, sys; from importlib import import_module\n"
            f"found = getattr(import_module({module!r}), {function!r})(*json.loads(sys.argv[1]))\n"
            "print('\\nRESULT ' + json.dumps(found))"
        )
        run = subprocess.run if cold else warm.run
        done = run(
            [sys.executable, "-c", program, json.dumps(arguments)], cwd=CONF.parent, text=True,
            capture_output=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.rpartition("\nRESULT ")[2])

    return call


@dataclass
class MadeRun:
    """A run as a new process would set it up, without Hydra's main function."""

    method: Any
    session: Any
    plan: Any

    @property
    def setup(self) -> Any:
        return self.session.setup

    @property
    def engine(self) -> Any:
        return self.session.engine

    @property
    def state(self) -> Any:
        return self.session.state

    @property
    def folder(self) -> Path:
        return self.session.folder

    def run(self) -> Any:
        """Its outcome."""
        return self.method.run(self.session, self.plan)


@pytest.fixture
def plan_of() -> Callable[[DictConfig], Any]:
    """``plan_of(cfg)``: what the method that ``cfg`` names would do, without data."""

    def make(cfg: DictConfig) -> Any:
        from thinet.app.config import build, check

        setup, method = build(check(cfg))
        return method.plan(setup, method.remembers())

    return make


@pytest.fixture
def make_run(compose_tiny, tmp_path) -> Callable[..., MadeRun]:
    def make(*overrides: str, folder: Path | None = None) -> MadeRun:
        return set_up(compose_tiny(*overrides), folder or tmp_path / "run")

    return make


def set_up(cfg: DictConfig, folder: Path) -> MadeRun:
    from thinet.app.config import build, check
    from thinet.base.records import from_json
    from thinet.engine.engine import Engine
    from thinet.run.identity import fingerprint
    from thinet.run.session import Session
    from thinet.run.state import RunState

    setup, method = build(check(cfg))
    folder.mkdir(exist_ok=True)
    state = RunState.load(folder, fingerprint(cfg))
    engine = Engine(setup.data, setup.devices, [], setup.seed, state.step, setup.evaluate)
    progress = from_json(method.remembers, state.progress)
    session = Session(setup, engine, state, folder, progress)
    return MadeRun(method, session, method.plan(setup, progress))

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from thinet.config import build, check
from thinet.engine.engine import Engine
from thinet.identity import fingerprint
from thinet.methods.prune import Run
from thinet.plan import make_plan
from thinet.state import RunState


@pytest.fixture
def make_run(compose_tiny, tmp_path) -> Callable[..., Run]:
    """A run as a new process would set it up, without Hydra's main function."""

    def make(*overrides: str, folder: Path | None = None) -> Run:
        cfg = compose_tiny(*overrides)
        job = build(check(cfg))
        folder = folder or tmp_path / "run"
        folder.mkdir(exist_ok=True)
        state = RunState.load(folder, fingerprint(cfg))
        engine = Engine(job.data, job.devices, [], job.seed, state.step)
        return Run(job, make_plan(job), engine, state, folder)

    return make

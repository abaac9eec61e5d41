"""The command line as a user types it: in this process (quick), or in one of its own."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import warm

ROOT = Path(__file__).parents[2]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "run.py"), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def type_(tmp_path, monkeypatch, capfd) -> Callable[..., Outcome]:
    """Run ``python run.py ARGUMENTS`` within this process, outputs below ``tmp_path``."""

    def run(*arguments: str) -> Outcome:
        where = (
            []
            if any("paths.outputs" in text for text in arguments)
            else [f"paths.outputs={tmp_path / 'outputs'}"]
        )
        # Overrides follow the flags: argparse takes no positionals on both sides of -m.
        monkeypatch.setattr(sys, "argv", [str(ROOT / "run.py"), *arguments, *where])
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        monkeypatch.setattr("thinet.base.lifeline.begin", lambda: None)  # signals are pytest's here
        capfd.readouterr()
        try:
            runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        finally:
            monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``python run.py ARGUMENTS`` in a process group of its own, its lines to be read."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        started.append(
            warm.start(
                command(*arguments),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment(),
                cwd=ROOT,
                start_new_session=True,
            )
        )
        return started[-1]

    yield run
    for one in started:
        one.kill()
        one.communicate()


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python run.py ARGUMENTS`` in a process of its own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return warm.run(
            command(*arguments), capture_output=True, text=True, env=environment(), cwd=ROOT,
            timeout=300, check=False,
        )  # fmt: skip

    return run

"""kill -9 anywhere, the same command again: the same bits."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest


def weights(outputs: Path) -> bytes:
    (path,) = outputs.glob("*/model/model.safetensors")
    return path.read_bytes()


def kill_at(start, text: str, *arguments: str) -> None:
    """Start a run and kill its whole process group as soon as it has printed ``text``."""
    run = start(*arguments)
    seen = []
    for line in run.stdout:
        seen.append(line)
        if text in line:
            os.killpg(run.pid, signal.SIGKILL)
            return
    pytest.fail(f"the run ended without printing {text!r}: {''.join(seen)[-2000:]}")


def test_kills_in_the_baseline_a_stage_and_the_end_do_not_change_the_weights(
    start, process, tiny, tmp_path
):
    quick = (*tiny, "trainer.progress=lines", "finetune.final.epochs=2", "dataset.crop=pad")
    whole = process(*quick, f"paths.outputs={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    killed = (*quick, f"paths.outputs={tmp_path / 'killed'}")
    for moment in ("baseline: epoch 1/1", "stage 2/3: features.3 keeps", "features.7: epoch 1/2"):
        kill_at(start, moment, *killed)
    end = process(*killed)
    assert end.returncode == 0, end.stderr
    assert "resuming after 2 of 3 steps" in end.stdout
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    tables = [
        next((tmp_path / name).glob("*/metrics.csv")).read_text().splitlines()
        for name in ("whole", "killed")
    ]
    assert len(tables[0]) == len(tables[1]), "rows of killed attempts were kept or lost"

"""Train (or load) the full network and test it."""

from __future__ import annotations

from typing import Any

from thinet.artifacts.store import save
from thinet.run.session import Run
from thinet.run.setup import Job
from thinet.training.source import baseline_metrics, network_spec, prepare_baseline

CUTS = False


def check(job: Job) -> None:
    """Every configuration will do."""


def train(run: Run) -> dict[str, Any]:
    """Run the method; see :func:`thinet.pruning.method.prune` for what it returns."""
    run.begin()
    network = prepare_baseline(run.job, run.engine, run.folder)
    metrics = baseline_metrics(run.job, run.engine, network)
    run.state.baseline = metrics
    if run.writes:
        save(network, run.folder / "model", network_spec(run.job, metrics=metrics))
    run.save_state()
    return {
        "baseline": metrics,
        "slim": None,
        "before_finetuning": None,
        "stages": [],
        "layers": [],
    }

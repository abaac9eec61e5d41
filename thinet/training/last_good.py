"""The network as the last finished stage left it."""

from __future__ import annotations

from pathlib import Path

from thinet.artifacts.store import read_state, save
from thinet.base.errors import DivergedError
from thinet.run.session import Run
from thinet.training.source import network_spec, rebuilt_network

BASELINE = "stages/baseline.safetensors"
LAST_GOOD = "last_good"


def last_good(run: Run) -> Path:
    """The weights of the last finished stage, or of the baseline."""
    done = len(run.state.stages)
    return run.folder / BASELINE if not done else run.stage_folder(done - 1) / "model.safetensors"


def keep_last_good(run: Run, error: DivergedError) -> DivergedError:
    """Save that network so that it can be used, and say so beside the reason."""
    folder = run.folder / LAST_GOOD
    if run.writes:
        path = last_good(run)
        network = rebuilt_network(run.job, read_state(path), path)
        save(network, folder, network_spec(run.job, run.state.kept))
    run.engine.barrier()
    done, planned = len(run.state.stages), len(run.plan.stages)
    reason = str(error).rstrip(".")
    return DivergedError(f"{reason}; {folder} has the network after {done} of {planned} stages.")

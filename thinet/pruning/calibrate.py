"""The images that a run's choices are made on."""

from __future__ import annotations

from thinet.engine.engine import Engine
from thinet.pruning.group import Calibration
from thinet.pruning.statistics import Sampling
from thinet.training.images import Supply


def calibrate(engine: Engine, images: Supply, sampling: Sampling, batch: int) -> Calibration:
    """The calibration images of a run, and how its processes share them.

    Args:
        engine: Of the run.
        images: Gives them.
        sampling: How much of them to look at.
        batch: Images a forward pass.
    """
    return Calibration.of(images.calibration(batch), sampling, batch, engine.rank, engine.world)

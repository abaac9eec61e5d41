"""The images that a run's choices are made on."""

from __future__ import annotations

from thinet.engine.engine import Engine
from thinet.pruning.group import Calibration
from thinet.pruning.statistics import Sampling


def calibrate(engine: Engine, sampling: Sampling, batch: int) -> Calibration:
    """The calibration images of the run's data set, and how its processes share them.

    Args:
        engine: Gives the images.
        sampling: How much of them to look at.
        batch: Images a forward pass.
    """
    return Calibration.of(engine.calibration(batch), sampling, batch, engine.rank, engine.world)

"""What the methods of this family read of a configuration, as typed objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.pruning.checks import read_layer_ratio, read_widths
from thinet.pruning.criteria import Criterion
from thinet.pruning.reconstruction import Reconstruction
from thinet.pruning.statistics import Sampling
from thinet.run.settings import Settings, fill
from thinet.widths.choose import Request
from thinet.widths.target import recalibration


@dataclass(frozen=True)
class Choosing:
    """How filters are chosen and what replaces them.

    Attributes:
        criterion: Ranks the units of a group.
        reconstruction: Corrects what reads them.
        recalibrate_bn: ``after``, ``each`` or ``never``.
        sampling: How much of the calibration images the statistics look at.
        batch_size: Calibration images a pass.
    """

    criterion: Criterion
    reconstruction: Reconstruction
    recalibrate_bn: str
    sampling: Sampling
    batch_size: int

    @classmethod
    def read(cls, settings: Settings) -> Choosing:
        """From ``criterion``, ``reconstruction`` and ``calibration``."""
        values = settings.without("calibration", "batch_size", "source")
        criterion: Any = Criterion  # mypy wants no abstract class where a class is wanted
        reconstruction: Any = Reconstruction
        return cls(
            criterion=settings.make("criterion.build", criterion),
            reconstruction=settings.make("reconstruction.build", reconstruction),
            recalibrate_bn=recalibration(settings["reconstruction.recalibrate_bn"]),
            sampling=fill(Sampling, {**values, "seed": settings.seed}, "calibration"),
            batch_size=settings["calibration.batch_size"],
        )


@dataclass(frozen=True)
class Finetuning:
    """How a network recovers.

    Attributes:
        training: Optimizer and loss.
        stage: After every stage but the last.
        group_end: What is added to it after the last layer of a group.
        final: After the last stage, instead of both.
    """

    training: Training
    stage: Phase
    group_end: Phase
    final: Phase

    @classmethod
    def read(cls, settings: Settings) -> Finetuning:
        """From ``finetune``."""
        return cls(
            settings.training("finetune"),
            *(settings.phase(f"finetune.{part}") for part in ("stage", "group_end", "final")),
        )


def read_request(settings: Settings) -> Request:
    """Layers, ratios and budget that were asked for."""
    return Request(
        layers=settings["layers"],
        ratio=settings["ratio"],
        widths=read_widths(settings),
        paper=tuple(settings["model"].get("paper_layers") or ()),
        by_place=read_layer_ratio(settings),
    )

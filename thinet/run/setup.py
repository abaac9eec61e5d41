"""A run's ingredients, built and typed: what the methods work with instead of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinet.datasets.module import ImageData
from thinet.engine.phases import Phase
from thinet.engine.settings import Devices, Training
from thinet.pruning.criteria import Criterion
from thinet.pruning.reconstruction import Reconstruction
from thinet.pruning.statistics import Sampling
from thinet.widths.choose import Request


@dataclass(frozen=True)
class ModelRecipe:
    """How to build the network.

    Attributes:
        name: Its short name; for networks of torchvision and timm also that of its weights.
        target: Dotted name of the builder.
        arguments: The builder's arguments apart from ``num_classes`` and ``image_size``.
        weights: ``none``, a name of published weights, or a file.
    """

    name: str
    target: str
    arguments: Mapping[str, Any]
    weights: str


@dataclass(frozen=True)
class BaselineRecipe:
    """How the full network is trained where it has to be.

    Attributes:
        train: ``auto``, ``always`` or ``never``.
        phase: Epochs and learning rate.
        training: Optimizer and loss.
    """

    train: str
    phase: Phase
    training: Training


@dataclass(frozen=True)
class Job:
    """Everything a method needs to know; see ``conf/`` for what each part means."""

    name: str
    config: Mapping[str, Any]
    method: str
    seed: int
    model: ModelRecipe
    data: ImageData
    image_size: int
    criterion: Criterion
    reconstruction: Reconstruction
    recalibrate_bn: str
    request: Request
    schedule: str
    stage: Phase
    group_end: Phase
    final: Phase
    training: Training
    baseline: BaselineRecipe
    batch_size: int
    sampling: Sampling
    devices: Devices
    cache: Path
    keep_stages: bool

"""What every method is given, built and typed: nothing in it belongs to one family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from thinet.base.evaluation import CLASSIFICATION, Evaluate
from thinet.base.records import JSON
from thinet.datasets.module import ImageData
from thinet.engine.phases import Phase
from thinet.engine.settings import Devices, Training


@dataclass(frozen=True)
class NetworkSource:
    """Where a network at full width comes from: a baseline, a student or a teacher.

    Attributes:
        name: Its short name; for networks of torchvision and timm also that of its weights.
        target: Dotted name of the builder.
        arguments: The builder's arguments apart from ``num_classes`` and ``image_size``.
        weights: ``none``, a name of published weights, a file, or a folder that holds a saved one.
        train: Whether it is trained: ``auto`` (where it has to be), ``always`` or ``never``.
        phase: For how long and at which rate.
        training: Optimizer and loss.
        cache: Folder in which a trained one is kept for the next run.
    """

    name: str
    target: str
    arguments: Mapping[str, JSON]
    weights: str
    train: str
    phase: Phase
    training: Training
    cache: Path


@dataclass(frozen=True)
class Setup:
    """What every method is given.

    Attributes:
        name: Of the run.
        seed: What everything random derives from.
        source: The network that the run begins with.
        data: The images.
        image_size: Side of an image in pixels.
        devices: Where to run.
        teacher: Whom a network learns from; None for the network that the run begins with, where
            that can be.
        keep_steps: Keep the network of every step, not of the last one alone.
        inspect: Draw what each step does to the network, where the method can.
        evaluate: How test images are evaluated.
    """

    name: str
    seed: int
    source: NetworkSource
    data: ImageData
    image_size: int
    devices: Devices
    teacher: NetworkSource | None = None
    keep_steps: bool = False
    inspect: bool = False
    evaluate: Evaluate = CLASSIFICATION

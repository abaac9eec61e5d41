"""Where and how to train, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class Devices:
    """Where to run, in Lightning's terms.

    Attributes:
        accelerator: ``cpu``, ``gpu`` or ``auto``.
        devices: Processes, one a device.
        num_nodes: Machines.
        strategy: ``auto`` or ``ddp``.
        precision: Of training and evaluation: ``32-true``, ``bf16-mixed``, ``16-mixed``.
        progress: See :func:`thinet.engine.progress.progress_callbacks`.
        deterministic: Ask for deterministic GPU kernels.
        checkpoint_minutes: Between checkpoints within an epoch; each epoch ends with one anyway.
        max_steps_per_epoch: Cut epochs short, for trying things out; null for whole epochs.
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    progress: str = "auto"
    deterministic: bool = False
    checkpoint_minutes: float = 15.0
    max_steps_per_epoch: int | None = None


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 accuracy as fractions; of a retrieval rank-1 and rank-5.

    All of them are None where there are no images to measure on.

    Attributes:
        top1: As above.
        top5: As above.
        top10: Rank-10 of a retrieval.
        mean_ap: Mean average precision of a retrieval.
    """

    top1: float | None
    top5: float | None
    top10: float | None = None
    mean_ap: float | None = None


UNKNOWN = Accuracy(None, None)
"""Where nothing can be measured."""


@dataclass(frozen=True)
class Training:
    """How to fine-tune.

    Attributes:
        make_optimizer: Makes an optimizer with a learning rate of 1 from parameters.
        label_smoothing: Of the cross-entropy.
        clip_norm: Largest norm of the gradient, or None for no limit.
        head_factor: Learning rate and weight decay of the classifier, over those of the rest.
    """

    make_optimizer: MakeOptimizer
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    head_factor: float = 1.0

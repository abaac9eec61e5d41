"""The plan of a run as data: what is cut in which stage, and how it is fine-tuned after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from thinet.base.errors import SettingError, ThinetError

DECAYS = ("constant", "cosine", "step")


@dataclass(frozen=True)
class Phase:
    """Some epochs of fine-tuning with one course of the learning rate.

    Attributes:
        epochs: How many; 0 leaves the phase out.
        lr: The learning rate it begins with.
        decay: ``constant``; ``cosine`` down to zero; or ``step``: a tenth after each third, which
            is the paper's 1e-3, 1e-4, 1e-5.
        warmup: Epochs at the beginning in which the rate rises linearly (fractions allowed).
    """

    epochs: int
    lr: float
    decay: str = "constant"
    warmup: float = 0.0

    def __post_init__(self) -> None:
        whole = isinstance(self.epochs, int) and not isinstance(self.epochs, bool)
        if not whole or self.epochs < 0:
            raise SettingError(
                f"epochs={self.epochs} is not a whole number of at least 0", "epochs", "1"
            )
        if not _is_number(self.lr) or not 0 < self.lr < math.inf:
            raise SettingError(f"lr={self.lr} is not a positive number", "lr", "1e-3")
        if self.decay not in DECAYS:
            raise ThinetError(f"decay={self.decay} is unknown: choose among {', '.join(DECAYS)}.")
        if not _is_number(self.warmup) or not 0 <= self.warmup < math.inf:
            raise SettingError(
                f"warmup={self.warmup} is not a number of epochs of at least 0", "warmup", "0.5"
            )

    def factor(self, epoch: float) -> float:
        """The learning rate after ``epoch`` epochs of the phase, relative to ``lr``."""
        if self.warmup and epoch < self.warmup:
            return (epoch + 1e-3) / (self.warmup + 1e-3)
        done = min(1.0, (epoch - self.warmup) / max(self.epochs - self.warmup, 1e-9))
        if self.decay == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if self.decay == "step":
            return 0.1 ** min(2, int(3 * done + 1e-9))
        return 1.0


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def learning_rate(phases: Sequence[Phase]) -> Callable[[float], float]:
    """The learning rate as a function of the epochs done, over phases that follow each other."""

    def rate(epoch: float) -> float:
        start = 0.0
        for phase in phases:
            if epoch < start + phase.epochs:
                return phase.lr * phase.factor(epoch - start)
            start += phase.epochs
        return phases[-1].lr * phases[-1].factor(phases[-1].epochs)

    return rate


@dataclass(frozen=True)
class Stage:
    """One step of the alternation: cut some layers, then fine-tune.

    Attributes:
        index: From 0.
        name: For people: the layer, the block, or ``oneshot``.
        counts: Kept filters of each layer to cut, in order.
        phases: The fine-tuning after it, phases of 0 epochs left out.
    """

    index: int
    name: str
    counts: dict[str, int]
    phases: tuple[Phase, ...]

    @property
    def epochs(self) -> int:
        """Epochs of fine-tuning."""
        return sum(phase.epochs for phase in self.phases)


@dataclass(frozen=True)
class LayerPlace:
    """Where a layer stands in the network.

    Attributes:
        name: Module path.
        in_sequence: Whether its parent is a plain sequence (VGG) and not a block (ResNet).
        output_size: Spatial size of its output.
    """

    name: str
    in_sequence: bool
    output_size: tuple[int, ...]

    @property
    def group(self) -> tuple[str, tuple[int, ...]]:
        """What it is grouped by: its block, or in a plain sequence the layers of equal size."""
        parent = self.name.rpartition(".")[0]
        return (parent, self.output_size) if self.in_sequence else (parent, ())


def make_stages(
    kind: str,
    places: Iterable[LayerPlace],
    counts: Mapping[str, int],
    stage: Phase,
    group_end: Phase,
    final: Phase,
) -> list[Stage]:
    """The stages of a schedule.

    Args:
        kind: ``layerwise``: one layer a stage; ``blockwise``: one block a stage (in a plain
            sequence the layers between two poolings); ``oneshot``: all in one stage.
        places: The layers to cut, in order of execution.
        counts: Kept filters of each.
        stage: Fine-tuning after every stage but the last.
        group_end: What is added to it after the last layer of a group, as the paper does after
            conv1_2, conv2_2 and conv3_3.
        final: Fine-tuning after the last stage, instead of both.

    Raises:
        ThinetError: If ``kind`` is unknown.
    """
    places = list(places)
    groups = [list(group) for _, group in groupby(places, lambda place: place.group)]
    if kind == "layerwise":
        cuts = [([p], p.name, p is group[-1]) for group in groups for p in group]
    elif kind == "blockwise":
        cuts = [(group, _title(group), True) for group in groups]
    elif kind == "oneshot":
        cuts = [(places, "oneshot", True)]
    else:
        raise ThinetError(
            f"schedule={kind} is unknown: choose among layerwise, blockwise, oneshot."
        )
    stages = []
    for index, (cut, title, ends_group) in enumerate(cuts):
        if index == len(cuts) - 1:
            phases = [final]
        else:
            phases = [stage, group_end] if ends_group else [stage]
        stages.append(
            Stage(
                index=index,
                name=title,
                counts={place.name: counts[place.name] for place in cut},
                phases=tuple(phase for phase in phases if phase.epochs),
            )
        )
    return stages


def _title(group: Sequence[LayerPlace]) -> str:
    if not group[0].in_sequence:
        return group[0].name.rpartition(".")[0]
    last = group[-1].name.rpartition(".")[2]
    return group[0].name if len(group) == 1 else f"{group[0].name}-{last}"

"""The plan of a run as data: what is cut in which stage, and how it is fine-tuned after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from thinet.base.errors import ThinetError
from thinet.engine.phases import Phase


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


class Phases(Protocol):
    """The fine-tuning between cuts, and after the last."""

    @property
    def stage(self) -> Phase: ...  # noqa: D102
    @property
    def group_end(self) -> Phase: ...  # noqa: D102
    @property
    def final(self) -> Phase: ...  # noqa: D102


def make_stages(
    kind: str,
    places: Iterable[LayerPlace],
    counts: Mapping[str, int],
    finetuning: Phases,
) -> list[Stage]:
    """The stages of a schedule.

    Args:
        kind: ``layerwise``: one layer a stage; ``blockwise``: one block a stage (in a plain
            sequence the layers between two poolings); ``oneshot``: all in one stage.
        places: The layers to cut, in order of execution.
        counts: Kept filters of each.
        finetuning: Its phases: ``stage`` after every stage but the last; ``group_end``, which is
            added to it after the last layer of a group, as the paper does after conv1_2, conv2_2
            and conv3_3; and ``final`` after the last stage, instead of both.

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
            phases = [finetuning.final]
        else:
            phases = [finetuning.stage, *([finetuning.group_end] if ends_group else [])]
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

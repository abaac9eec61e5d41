"""What a search of widths leaves in ``result.json``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from thinet.run.result import Measurement

KEY = "search"
UNIFORM = -1
"""In place of the generation, of widths that were not searched: one scale for all groups."""


@dataclass(frozen=True)
class Candidate:
    """Widths that were judged.

    Attributes:
        genes: For each gene the index of its scale.
        generation: In which they were judged, from 0.
        error: Top-1 on validation images as the proxy sees it, in [0, 1].
        cost: The fraction of the full network's that is left, of what the target counts.
        flops: The same of FLOPs.
        params: The same of parameters.
    """

    genes: tuple[int, ...]
    generation: int
    error: float
    cost: float
    flops: float
    params: float


@dataclass(frozen=True)
class WidthRow:
    """How wide a group of layers was found to be.

    Attributes:
        layers: Its layers, in order.
        full: Channels of the full network.
        found: Channels of the best candidate.
        uniform: Channels with one scale for all, within the same budget.
    """

    layers: tuple[str, ...]
    full: int
    found: int
    uniform: int


@dataclass(frozen=True)
class Trained:
    """A network of searched or uniform widths after the same training.

    Attributes:
        name: ``found`` or ``uniform``.
        measurement: Its figures.
    """

    name: str
    measurement: Measurement


@dataclass(frozen=True)
class SearchDetails:
    """What only a search of widths knows.

    Attributes:
        proxy: What judged: ``hypernet``, ``shared`` or ``prune``.
        target: The budget as it was typed.
        kind: What the budget counts: ``flops``, ``params`` or ``latency``.
        low: The least fraction of the full network's that a candidate may cost.
        high: The most.
        generations: That were searched.
        scales: In percent of the full width.
        images: On which candidates were judged.
        standard_error: Of an error, at most, for so many images.
        calibration: Images on which statistics were estimated for each candidate.
        hypernet_parameters: Of what was trained for the proxy; 0 for none.
        seconds: Spent on training it, on searching, and on training the networks at the end.
        widths: Of each group.
        candidates: All that were judged, in order.
        uniform: The uniform widths, judged in the same way; None where one scale does not fit.
        best: The place of the found widths among the candidates.
        front: Places of candidates that no other is better than in error and cost; empty unless
            both were searched.
        trained: What the found and the uniform widths reach; empty if they were not trained.
        epochs: Of that training.
        folder: Of the run.
    """

    proxy: str
    target: str
    kind: str
    low: float
    high: float
    generations: int
    scales: tuple[int, ...]
    images: int
    standard_error: float
    calibration: int
    hypernet_parameters: int
    seconds: dict[str, float]
    widths: tuple[WidthRow, ...]
    candidates: tuple[Candidate, ...]
    uniform: Candidate | None
    best: int
    front: tuple[int, ...]
    trained: tuple[Trained, ...]
    epochs: int
    folder: str = ""

    def __post_init__(self) -> None:
        """Refuse what could not be shown.

        Raises:
            ValueError: If a place is that of no candidate, or a figure is not finite.
        """
        places = (*self.front, *((self.best,) if self.candidates else ()))
        if not all(0 <= place < len(self.candidates) for place in places):
            raise ValueError("best or front: there is no such candidate")
        judged = (*self.candidates, *((self.uniform,) if self.uniform else ()))
        figures = [value for one in judged for value in (one.error, one.cost, one.flops)]
        if not all(map(math.isfinite, (*figures, self.low, self.high, self.standard_error))):
            raise ValueError("errors or costs of candidates are not finite")

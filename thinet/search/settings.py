"""Settings of a search of widths, read before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thinet.base.errors import SettingError
from thinet.base.values import check_whole, is_number, is_whole, shown

EACH, ONE = "each", "one"
NORMS = (EACH, ONE)
EVOLUTION, NSGA2 = "evolution", "nsga2"
ALGORITHMS = (EVOLUTION, NSGA2)
PROXY, SEARCH, TRAINING = "proxy", "search", "training"
PARTS = (PROXY, SEARCH, TRAINING)
"""Parts of a run, at any of which it may start."""


@dataclass(frozen=True)
class Making:
    """How weights are made.

    Attributes:
        hidden: H, or H by glob of the weights' names.
        rank: Of the factors that are made in place of a whole weight: ``(O, r) (r, I k k)``; None
            for the paper's whole weights.
        shared: Whether convolutions of one shape, told of as many genes, have one generator.
        blocks: See :func:`thinet.search.encoding.encodings`.
        norms: ``each``: statistics for each width of what a BatchNorm normalises, as the paper;
            ``one``: for all widths together.
        affine: Whether BatchNorms learn a scale and a shift (the authors' mostly do not).
        generate: Whether there are generators; without them all widths share the leading channels
            of one set of weights, as in the paper's ablation.
    """

    hidden: int | Mapping[str, int] = 32
    rank: int | None = None
    shared: bool = False
    blocks: Sequence[str] = ()
    norms: str = EACH
    affine: bool = False
    generate: bool = True

    def __post_init__(self) -> None:
        sizes = self.hidden if isinstance(self.hidden, Mapping) else {"*": self.hidden}
        if not sizes or not all(is_whole(one) and one >= 1 for one in sizes.values()):
            raise SettingError(
                f"hidden={shown(self.hidden)} is not a whole number of at least 1, nor one for "
                "each glob",
                "hidden",
                "32",
            )
        if self.rank is not None:
            check_whole(self, "rank", 1, "16")
        if self.norms not in NORMS:
            raise SettingError(
                f"norms={shown(self.norms)} is none of {', '.join(NORMS)}", "norms", EACH
            )
        for name in ("shared", "affine", "generate"):
            if not isinstance(getattr(self, name), bool):
                value = shown(getattr(self, name))
                raise SettingError(f"{name}={value} is neither true nor false", name, "true")
        _check_globs(self, "blocks", "[layer?.*]")


@dataclass(frozen=True)
class Evolution:
    """How the search goes: the paper's, with the constants of the authors' code.

    Attributes:
        population: Candidates a generation.
        generations: How many there are.
        parents: The best so far, that candidates descend from.
        mutations: Candidates a generation that are a changed parent.
        crossovers: Candidates a generation that are mixed from two parents.
        mutation_rate: Probability that a gene of a mutated parent changes.
        spread: Of the first candidates, and of those that make up the number; see
            :func:`thinet.search.budget.draw_near`.
    """

    population: int = 50
    generations: int = 20
    parents: int = 10
    mutations: int = 25
    crossovers: int = 25
    mutation_rate: float = 0.1
    spread: float = 0.3

    def __post_init__(self) -> None:
        for name, least in (("population", 1), ("generations", 1), ("parents", 1),
                            ("mutations", 0), ("crossovers", 0)):  # fmt: skip
            check_whole(self, name, least, "10")
        if not is_number(self.mutation_rate) or not 0 < self.mutation_rate <= 1:
            raise SettingError(
                f"mutation_rate={shown(self.mutation_rate)} is not in (0, 1]", "mutation_rate",
                "0.1",
            )  # fmt: skip
        if not is_number(self.spread) or not 0 <= self.spread <= 10:
            raise SettingError(f"spread={shown(self.spread)} is not in [0, 10]", "spread", "0.3")


@dataclass(frozen=True)
class Course:
    """How it is trained: SGD with momentum 0.9, the rate falling to 0 in a line (Liu et al. 2019).

    Attributes:
        epochs: Passes through the images; the paper: a quarter of those of the final network.
        lr: At the beginning; the paper: 0.25 for 512 images a batch.
        weight_decay: Of everything that is learnt.
        label_smoothing: Of the cross-entropy.
    """

    epochs: int = 8
    lr: float = 0.05
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        check_whole(self, "epochs", 0, "8")
        if not is_number(self.lr) or self.lr <= 0:
            raise SettingError(f"lr={shown(self.lr)} is not a positive number", "lr", "0.05")
        for name in ("weight_decay", "label_smoothing"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value < 1:
                raise SettingError(f"{name}={shown(value)} is not in [0, 1)", name, "0.1")


@dataclass(frozen=True)
class Searching:
    """What is searched in, and what candidates are judged on.

    Attributes:
        algorithm: ``evolution``: the paper's, for the least error; ``nsga2``: a Pareto front of
            error and cost.
        scales: Widths to choose among, in percent of the full ones, rising.
        tied: Globs of layers: see :meth:`thinet.widths.space.Space.of`.
        tolerance: How far below the target candidates may cost, as a fraction of it.
        images: Validation images at most; None for all.
        calibration: Training images that BatchNorm statistics are estimated on, for each candidate.
        batch_size: Of both.
    """

    algorithm: str = EVOLUTION
    scales: Sequence[int] = tuple(range(10, 101, 3))
    tied: Sequence[str] = ()
    tolerance: float = 0.05
    images: int | None = 2000
    calibration: int = 640
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise SettingError(
                f"algorithm={shown(self.algorithm)} is none of {', '.join(ALGORITHMS)}",
                "algorithm",
                EVOLUTION,
            )
        several = isinstance(self.scales, Sequence) and not isinstance(self.scales, str)
        good = several and all(is_whole(one) and 1 <= one <= 100 for one in self.scales)
        if not good or len(self.scales) < 2 or list(self.scales) != sorted(set(self.scales)):
            raise SettingError(
                f"scales={shown(self.scales)} are not at least two different percents from 1 to "
                "100, rising",
                "scales",
                "[25,50,75,100]",
            )
        _check_globs(self, "tied", "[layer*.*.conv[12]]")
        if not is_number(self.tolerance) or not 0 < self.tolerance < 1:
            raise SettingError(
                f"tolerance={shown(self.tolerance)} is not in (0, 1)", "tolerance", "0.05"
            )
        if self.images is not None:
            check_whole(self, "images", 1, "2000")
        check_whole(self, "calibration", 2, "640")
        check_whole(self, "batch_size", 2, "64")


def _check_globs(settings: Any, name: str, example: str) -> None:
    value = getattr(settings, name)
    several = isinstance(value, Sequence) and not isinstance(value, str)
    if not several or not all(isinstance(one, str) and one for one in value):
        raise SettingError(f"{name}={shown(value)} is no list of names or globs", name, example)

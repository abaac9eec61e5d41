"""Judging candidates on all processes, each by itself, and not again after a kill."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from thinet.base.errors import ThinetError
from thinet.base.files import read_json, write_json_atomic
from thinet.base.seeding import derive_seed
from thinet.datasets.images import ImageView
from thinet.datasets.split import balanced_subset
from thinet.engine.engine import Engine
from thinet.engine.repeated import Repeated
from thinet.search.fitness import FEWEST, standard_error
from thinet.search.settings import Searching
from thinet.training.proxy import Evidence, Judge
from thinet.widths.space import Genes

ERRORS = "errors.json"
"""In the folder of a generation, what has been found of its candidates so far."""


@dataclass(frozen=True, eq=False)
class OnDevice:
    """The images of some batches, where the network is."""

    batches: Repeated
    device: torch.device

    def __iter__(self) -> Iterator[Tensor]:
        for images, _ in self.batches:
            yield images.to(self.device)


@dataclass(frozen=True, eq=False)
class Grounds:
    """What candidates are judged on.

    Attributes:
        evidence: The images.
        images: How many validate.
        calibration: How many statistics are estimated on.
    """

    evidence: Evidence
    images: int
    calibration: int


def find_grounds(engine: Engine, how: Searching) -> Grounds:
    """The images that candidates are judged on: the same on every process, classes taking turns.

    Raises:
        ThinetError: If there are too few validation images to rank by.
    """
    whole = engine.data.val_dataloader().dataset
    assert isinstance(whole, ImageView)
    validation = _some(engine, whole, how.images, "search")
    if len(validation) < FEWEST:
        points = 100 * standard_error(max(len(validation), 1))
        raise ThinetError(
            f"there are {len(validation)} validation images, too few to rank widths by (a standard "
            f"error of up to {points:.0f} points): type dataset.data.val_fraction=0.2 or more, or "
            f"search.images=null; {FEWEST} are the least, thousands are better."
        )
    training = _some(engine, engine.data.plain_training(), how.calibration, "recalibration")
    batches = Repeated(engine, training, how.batch_size)
    labels = torch.as_tensor(training.labels).split(how.batch_size)
    evidence = Evidence(
        OnDevice(batches, engine.device), labels, Repeated(engine, validation, how.batch_size)
    )
    return Grounds(evidence, len(validation), len(training))


def _some(engine: Engine, view: ImageView, limit: int | None, key: str) -> ImageView:
    labels = view.labels
    count = len(labels) if limit is None else min(limit, len(labels))
    chosen = balanced_subset(labels, count, derive_seed(engine.seed, key))[:count]
    return ImageView(view.images, view.positions[chosen], view.transform)


def judge_all(
    engine: Engine, judge: Judge, candidates: Sequence[Genes], folder: Path
) -> Iterable[float]:
    """The error of each candidate, in order; processes take turns, each judges whole candidates.

    So the errors are those of one process, to the last bit. What is found is written at once.

    Args:
        engine: Of the run.
        judge: See :data:`thinet.training.proxy.Judge`.
        candidates: The same on every process.
        folder: Of the generation.

    Yields:
        Errors, also those that an interrupted attempt has found.
    """
    found = engine.decide(lambda: _read(folder / ERRORS))[: len(candidates)]
    yield from found
    for first in range(len(found), len(candidates), engine.world):
        place = first + engine.rank
        own = judge(candidates[place]) if place < len(candidates) else None
        new = [error for error in engine.gather(own) if error is not None]
        found += new
        if engine.rank == 0:
            write_json_atomic(folder / ERRORS, {"errors": found})
        yield from new


def _read(path: Path) -> list[float]:
    """What an interrupted attempt has found; nothing if the file is not what it should be."""
    if not path.exists():
        return []
    errors = read_json(path).get("errors")
    good = isinstance(errors, list) and all(isinstance(one, int | float) for one in errors)
    return [float(one) for one in errors] if good else []

"""Judging candidates on all processes, each by itself, and not again after a kill."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    shown = (Repeated(engine, part, how.batch_size) for part in (training, validation))
    evidence = Evidence(*shown)
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
    found = engine.decide(lambda: _read(folder / ERRORS, candidates))
    yield from found
    for first in range(len(found), len(candidates), engine.world):
        place = first + engine.rank
        own = _judged(judge, candidates[place]) if place < len(candidates) else None
        new = [one for one in engine.gather(own) if one is not None]
        for one in new:
            if isinstance(one, ThinetError):  # on every process, or the others would wait
                raise one
            found.append(one)
        if engine.rank == 0:
            genes = [list(one) for one in candidates[: len(found)]]
            write_json_atomic(folder / ERRORS, {"genes": genes, "errors": found})
        yield from found[first:]


def _judged(judge: Judge, genes: Genes) -> float | ThinetError:
    try:
        return judge(genes)
    except ThinetError as error:
        return error


def _read(path: Path, candidates: Sequence[Genes]) -> list[float]:
    """What an interrupted attempt has found of these very candidates; else nothing."""
    if not path.exists():
        return []
    known = read_json(path)
    errors, genes = known.get("errors"), known.get("genes")
    good = isinstance(errors, list) and all(isinstance(one, int | float) for one in errors)
    if not good or genes != [list(one) for one in candidates[: len(errors)]]:
        return []
    return [float(one) for one in errors]

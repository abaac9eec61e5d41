"""What a run logged of its training, epoch by epoch: ``metrics.csv`` in its folder."""

from __future__ import annotations

import csv
import math
from pathlib import Path

LOGGED = "metrics.csv"
TRAIN = "train/"
"""In front of the figures of training."""


def courses(folder: Path, marker: str) -> dict[str, list[float]]:
    """The figures of training, by name, in the epochs that logged one of them.

    Other trainings of the same run, of a network that was needed first, may or may not be in the
    file: they are found there if the network was not taken from the cache.

    Args:
        folder: Of the run.
        marker: The figure that an epoch must have, such as ``soft_targets``.

    Returns:
        For each figure a value an epoch, not a number where it is not known. Nothing if there is no
        file, it cannot be read, or no epoch has the figure.
    """
    try:
        with open(folder / LOGGED, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get(f"{TRAIN}{marker}")]
    except (OSError, ValueError, csv.Error):  # a figure less is no reason to lose the page
        return {}
    names = dict.fromkeys(
        name for row in rows for name, text in row.items() if name and name.startswith(TRAIN)
        and text
    )  # fmt: skip
    return {name.removeprefix(TRAIN): [_number(row.get(name)) for row in rows] for name in names}


def _number(text: object) -> float:
    try:
        found = float(str(text))
    except ValueError:
        return math.nan
    return found if math.isfinite(found) else math.nan

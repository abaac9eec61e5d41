"""What a run logged of its training, epoch by epoch: ``metrics.csv`` in its folder."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

LOGGED = "metrics.csv"
TRAIN = "train/"
"""In front of the figures of training."""
LOSS = "train/loss"
"""What every epoch of every training has."""


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
    rows = [row for row in _rows(folder) if row.get(f"{TRAIN}{marker}")]
    names = _names(rows, TRAIN)
    return {name.removeprefix(TRAIN): [_number(row.get(name)) for row in rows] for name in names}


def last_epochs(folder: Path, count: int) -> dict[str, list[float]]:
    """All figures of the last epochs of training, by name: ``train/loss``, ``val/top1``.

    Args:
        folder: Of the run.
        count: How many; what was trained before belongs to a network that was needed first.

    Returns:
        As :func:`courses`; nothing if fewer were logged.
    """
    by_step: dict[str, dict[str, str]] = {}  # validation has a row of its own
    for row in _rows(folder):
        there = {name: text for name, text in row.items() if isinstance(text, str) and text}
        by_step.setdefault(there.get("step", ""), {}).update(there)
    epochs = [row for row in by_step.values() if LOSS in row]
    if not 0 < count <= len(epochs):
        return {}
    epochs = epochs[-count:]
    names = _names(epochs, "")
    return {name: [_number(row.get(name)) for row in epochs] for name in names}


def _rows(folder: Path) -> list[dict[str, str]]:
    try:
        with open(folder / LOGGED, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):  # a figure less is no reason to lose the page
        return []


def _names(rows: Sequence[Mapping[str, str]], beginning: str) -> list[str]:
    found = (
        name for row in rows for name, text in row.items() if name and name.startswith(beginning)
        and text
    )  # fmt: skip
    return list(dict.fromkeys(found))


def _number(text: object) -> float:
    try:
        found = float(str(text))
    except ValueError:
        return math.nan
    return found if math.isfinite(found) else math.nan

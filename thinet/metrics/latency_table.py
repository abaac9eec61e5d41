"""Time of a network at any widths, added up from what its parts took: a record and its reading.

A part is what happens from the call of one layer to that of the next: a convolution and the
normalisation, activation, addition or pooling behind it. How parts are timed is another question:
see :mod:`thinet.metrics.latency_timing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from thinet.base.errors import ThinetError
from thinet.base.files import read_json, write_json_atomic
from thinet.base.records import from_json, to_json

Floats = NDArray[np.float64]

NOISY = 0.15
"""An error above which a table was measured on a busy machine; else it is a few percent."""


@dataclass(frozen=True)
class Conditions:
    """What a table holds for.

    Attributes:
        network: A digest of its structure.
        device: The GPU, or the model of the CPU and what it can do.
        threads: Of torch; 0 on a GPU.
        torch: Its version.
        dtype: Of the parameters.
        layout: ``contiguous`` or ``channels_last``.
        batch: Images a pass.
        shape: ``(C, H, W)`` of one.
    """

    network: str
    device: str
    threads: int
    torch: str
    dtype: str
    layout: str
    batch: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Axis:
    """One of the widths that a part depends on: channels that its layer reads or makes.

    Attributes:
        units: Channels for each unit of each group that they belong to.
        fixed: Channels that are there at any widths.
        points: Channels at which it was measured, rising.
    """

    units: dict[str, float]
    fixed: float
    points: tuple[float, ...]


@dataclass(frozen=True)
class Part:
    """What a part takes.

    Attributes:
        layer: Dotted name of the layer that it begins with; empty before the first.
        axes: None, one or two.
        ms: At each combination of points, the last axis running fastest; never less for more.
    """

    layer: str
    axes: tuple[Axis, ...]
    ms: tuple[float, ...]


@dataclass(frozen=True)
class Check:
    """A network of random widths, in milliseconds."""

    measured: float
    predicted: float


@dataclass(frozen=True)
class LatencyTable:
    """What the parts of one network take on one machine.

    Attributes:
        conditions: What it holds for.
        full: Units of each group at full width; groups that are not here do not change.
        least: The fewest units of each that were measured.
        parts: In order of execution.
        between: Milliseconds that whole networks take longer than their parts, or less long.
        checks: Networks that nothing was fitted to.
        networks: Whose parts were timed.
        seconds: That measuring took.
    """

    conditions: Conditions
    full: dict[str, int]
    least: dict[str, int]
    parts: tuple[Part, ...]
    between: float
    checks: tuple[Check, ...]
    networks: int
    seconds: float

    @property
    def errors(self) -> tuple[float, ...]:
        """How far each check is off, as a fraction of what was measured; positive if too slow."""
        return tuple(one.predicted / one.measured - 1 for one in self.checks)

    @property
    def mean_error(self) -> float:
        """Mean of the errors' sizes."""
        return float(np.mean(np.abs(self.errors)))

    @property
    def max_error(self) -> float:
        """Largest of the errors' sizes."""
        return float(np.max(np.abs(self.errors)))

    def __str__(self) -> str:
        noisy = self.max_error > NOISY
        return (
            f"latency table: parts of {self.networks} networks timed in {self.seconds:.0f} s on "
            f"{self.conditions.device}; {len(self.checks)} random networks are predicted within "
            f"{100 * self.mean_error:.1f} % in the mean and {100 * self.max_error:.1f} % at most"
            f"{': measure it again while nothing else runs' if noisy else ''}"
        )

    def ms(self, counts: Mapping[str, int]) -> float:
        """Milliseconds of a pass; groups that are left out are as wide as they can be."""
        return Prediction(self, tuple(counts))(tuple(counts.values()))


class Prediction:
    """The time of a network as a function of the units of some groups; never less for more.

    All parts are read at once: a search asks a hundred thousand times.

    Args:
        table: What was measured.
        names: The groups, in the order in which their units will be given.

    Raises:
        ThinetError: If the table says nothing of one of them.
    """

    def __init__(self, table: LatencyTable, names: Sequence[str]) -> None:
        missing = [name for name in names if name not in table.full]
        if missing:
            raise ThinetError(
                f"the latency table says nothing of {missing[0]}: measure one for these layers."
            )
        self.names, self._between = tuple(names), table.between
        self._largest = np.array([table.full[name] for name in names], float)
        most = max((len(axis.points) for part in table.parts for axis in part.axes), default=1)
        count = len(table.parts)
        self._points = np.full((2, count, most), np.inf)
        self._points[..., 0] = 0
        self._fixed = np.zeros((2, count))
        self._slope = np.zeros((2, count, len(names)))
        self._ms = np.zeros((count, most, most))
        for number, part in enumerate(table.parts):
            sizes = [len(axis.points) for axis in part.axes] + [1] * (2 - len(part.axes))
            self._ms[number, : sizes[0], : sizes[1]] = np.reshape(part.ms, sizes)
            for slot, axis in enumerate(part.axes):
                self._points[slot, number, : sizes[slot]] = axis.points
                rest = sum(each * table.full[name] for name, each in axis.units.items()
                           if name not in names)  # fmt: skip
                self._fixed[slot, number] = axis.fixed + rest
                self._slope[slot, number] = [axis.units.get(name, 0.0) for name in names]
        self._last = np.isfinite(self._points).sum(axis=2) - 1

    def __call__(self, counts: Sequence[float]) -> float:
        """Milliseconds where each group keeps so many units."""
        kept = np.minimum(np.asarray(counts, float), self._largest)
        low, high, share = self._between_points(self._fixed + self._slope @ kept)
        number = np.arange(self._ms.shape[0])
        at = self._ms[number]
        left = at[number, low[0], low[1]] * (1 - share[1]) + at[number, low[0], high[1]] * share[1]
        right = (
            at[number, high[0], low[1]] * (1 - share[1]) + at[number, high[0], high[1]] * share[1]
        )
        parts = float((left * (1 - share[0]) + right * share[0]).sum())
        # An overhead of timing is taken off, which is a small part even of the narrowest network.
        return max(parts + self._between, 0.1 * parts)

    def _between_points(self, sizes: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """The points around each size and how far it is on the way; the last ones beyond them."""
        low = ((self._points <= sizes[..., None]).sum(axis=2) - 1).clip(0)
        high = np.minimum(low + 1, self._last)
        first = np.take_along_axis(self._points, low[..., None], 2)[..., 0]
        last = np.take_along_axis(self._points, high[..., None], 2)[..., 0]
        share = (sizes - first) / np.where(high > low, last - first, 1.0)
        return low, high, np.where(high > low, share, 0.0).clip(0, 1)


def check_conditions(table: LatencyTable, here: Conditions, named: str, advice: str) -> None:
    """Refuse a table that was measured for something else.

    Args:
        table: As it was read.
        here: What is needed.
        named: What the user typed, for the message.
        advice: What to type instead.

    Raises:
        ThinetError: Naming what differs.
    """
    differing = [one.name for one in fields(Conditions)
                 if getattr(table.conditions, one.name) != getattr(here, one.name)]  # fmt: skip
    if differing:
        words = ", ".join(
            f"{name} {getattr(table.conditions, name)}, here {getattr(here, name)}"
            for name in differing
        )
        what = "another network" if differing == ["network"] else "other conditions"
        raise ThinetError(f"{named} was measured for {what} ({words}): {advice}.")


def write_table(path: str | Path, table: LatencyTable) -> Path:
    """Write it as JSON; a reader never sees half of it."""
    return write_json_atomic(path, to_json(table))


def read_table(path: str | Path) -> LatencyTable:
    """Read what :func:`write_table` wrote.

    Raises:
        ThinetError: If it is no such file.
    """
    try:
        table = from_json(LatencyTable, read_json(path))
    except ValueError as error:
        _no_table(path, str(error), error)
    numbers = [table.between, *(ms for part in table.parts for ms in part.ms)]
    if not np.isfinite(numbers).all() or not table.checks:
        _no_table(path, "a time is no number, or its error is missing")
    for part in table.parts:
        if len(part.axes) > 2 or len(part.ms) != np.prod([len(one.points) for one in part.axes]):
            _no_table(path, f"{part.layer or 'its start'} has other times than widths")
        if not set().union(*(axis.units for axis in part.axes), ()) <= set(table.full):
            _no_table(path, f"{part.layer} depends on groups that it does not name")
    return table


def _no_table(path: str | Path, why: str, cause: Exception | None = None) -> NoReturn:
    raise ThinetError(
        f"{path} is no latency table ({why}): delete it, and it is measured anew."
    ) from cause

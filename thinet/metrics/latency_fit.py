"""Which networks to time, and what their parts say of others: pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thinet.metrics.latency_table import Axis, Check, Floats, LatencyTable, Part, Prediction

Counts = dict[str, int]
FITTED, CHECKED = 8, 6
"""Random whole networks that the overhead of timing is found by, and that the error is found by."""


@dataclass(frozen=True)
class Reading:
    """Which widths a layer depends on.

    Attributes:
        layer: Its dotted name.
        axes: Of its channels, those it reads first: channels for each unit of each group, and those
            that are there at any widths. None, one or two.
    """

    layer: str
    axes: tuple[tuple[dict[str, float], float], ...] = ()


def design(
    widths: Mapping[str, Sequence[int]], readings: Sequence[Reading], levels: int, seed: int
) -> list[Counts]:
    """Widths of whole networks in which every layer meets each pair of its own widths.

    An orthogonal array of strength 2: with ``p`` levels, ``p`` prime, ``p * p`` networks hold all
    pairs of levels of any two of ``p + 1`` columns, and groups that one layer joins have different
    columns. ``p`` networks with one level for all groups follow, for the ends of what is a sum of
    several groups.

    Args:
        widths: Of each group the units it may keep, rising.
        readings: What joins groups.
        levels: At most so many widths of each; they lie evenly among those.
        seed: Of the order and of who meets whom.
    """
    rng = np.random.default_rng([seed, len(widths)])
    longest = max(len(found) for found in widths.values())
    count = _prime(min(levels, longest))
    columns = _columns(list(widths), readings, count + 1, rng)
    rows = [(i, j) for i in range(count) for j in range(count)]
    shuffled = {name: rng.permutation(count) for name in widths}
    chosen = {name: [found[place] for place in _evenly(len(found), count)]
              for name, found in widths.items()}  # fmt: skip

    def level(name: str, i: int, j: int) -> int:
        column = columns[name]
        return int(shuffled[name][j if column == count else (i + column * j) % count])

    found = [{name: chosen[name][level(name, i, j)] for name in widths} for i, j in rows]
    found += [{name: chosen[name][k] for name in widths} for k in range(count)]
    return [found[place] for place in rng.permutation(len(found))]


def drawn(
    widths: Mapping[str, Sequence[int]], count: int, rng: np.random.Generator
) -> list[Counts]:
    """Random widths: each group by itself, and in turn all near one fraction."""
    found = []
    for number in range(count):
        middle = rng.random()
        near = [middle + rng.normal(0, 0.15) if number % 2 else rng.random() for _ in widths]
        places = [min(int(max(part, 0) * len(choice)), len(choice) - 1)
                  for choice, part in zip(widths.values(), near, strict=True)]  # fmt: skip
        chosen = [choice[place] for choice, place in zip(widths.values(), places, strict=True)]
        found.append(dict(zip(widths, chosen, strict=True)))
    return found


def fitted(reading: Reading, networks: Sequence[Counts], ms: Floats, levels: int) -> Part:
    """The table of one part.

    A plane with a twist (a product of both widths) is fitted, and what each measurement is off it
    is averaged at the nearest points: exact where all lie on points, sensible where there are none.

    Args:
        reading: What it depends on.
        networks: That were timed.
        ms: What the part took in each.
        levels: At most so many points an axis.
    """
    if not reading.axes:
        return Part(reading.layer, (), (float(np.median(ms)),))
    sizes = np.array([[fixed + sum(each * counts[name] for name, each in units.items())
                       for counts in networks] for units, fixed in reading.axes])  # fmt: skip
    points = [_points(axis, levels) for axis in sizes]
    weights = np.linalg.lstsq(_twisted(sizes), ms, rcond=None)[0]
    nearest = tuple(np.abs(axis[:, None] - at).argmin(axis=1)
                    for axis, at in zip(sizes, points, strict=True))  # fmt: skip
    off, met = (np.zeros([len(at) for at in points]) for _ in range(2))
    np.add.at(off, nearest, ms - _twisted(sizes) @ weights)
    np.add.at(met, nearest, 1)
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*points, indexing="ij")])
    table = (_twisted(grid) @ weights).reshape(off.shape) + off / met.clip(1)
    axes = tuple(Axis(dict(units), fixed, tuple(at.tolist()))
                 for (units, fixed), at in zip(reading.axes, points, strict=True))  # fmt: skip
    return Part(reading.layer, axes, tuple(rising(table.clip(0)).ravel().tolist()))


def checked(
    table: LatencyTable, networks: Sequence[Counts], ms: Sequence[float], most: float
) -> LatencyTable:
    """The table with what stamps cost taken off, and with its error in other networks.

    Args:
        table: As yet of parts alone.
        networks: Random ones; the first :data:`FITTED` say what is taken off.
        ms: What they take as a whole.
        most: Milliseconds that they can take longer than their parts: more is a busy machine's.
    """
    names = tuple(networks[0])
    pairs = [(time, tuple(one[name] for name in names))
             for time, one in zip(ms, networks, strict=True)]  # fmt: skip
    raw = Prediction(replace(table, between=0.0), names)
    off = [time - raw(counts) for time, counts in pairs[:FITTED]]
    table = replace(table, between=min(most, statistics.median(off)))
    told = Prediction(table, names)
    return replace(table, checks=tuple(
        Check(time, told(counts)) for time, counts in pairs[FITTED:]
    ))  # fmt: skip


def rising(table: Floats) -> Floats:
    """A table near the given one that is never less for more along any axis.

    Half way between the least such table above it and the greatest below it; one that is rising
    already is left as it is.
    """
    above = below = table
    for axis in range(table.ndim):
        above = np.maximum.accumulate(above, axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis), axis)
    found: Floats = (above + below) / 2
    return found


def _twisted(sizes: Floats) -> Floats:
    """What a plane with a twist is linear in, ``(measurements, 1 + axes + 1)``."""
    scaled = sizes / sizes.max(axis=1, keepdims=True)
    columns = [np.ones(sizes.shape[1]), *scaled]
    return np.stack([*columns, scaled.prod(axis=0)] if len(sizes) > 1 else columns, axis=1)


def _points(sizes: Floats, levels: int) -> Floats:
    """Every size that there is, or even steps where there are too many."""
    known = np.unique(sizes)
    return known if len(known) <= levels else np.linspace(known[0], known[-1], levels)


def _columns(
    names: Sequence[str], readings: Sequence[Reading], count: int, rng: np.random.Generator
) -> dict[str, int]:
    """A column for each group, different ones where a layer joins them as far as they go."""
    met: dict[str, set[str]] = {name: set() for name in names}
    for reading in readings:
        joined = {name for units, _ in reading.axes for name in units}
        for name in joined:
            met[name] |= joined
    found: dict[str, int] = {}
    for name in names:
        taken = {found[other] for other in met[name] if other in found}
        free = [column for column in range(count) if column not in taken]
        found[name] = int(rng.choice(free or count))
    return found


def _evenly(length: int, count: int) -> NDArray[np.int64]:
    """``count`` places from the first to the last of a list; shorter ones repeat some."""
    places: NDArray[np.int64] = np.linspace(0, length - 1, count).round().astype(np.int64)
    return places if count > 1 else np.array([length - 1])


def _prime(most: int) -> int:
    """The largest prime that is not above; 1 below all."""
    return next((one for one in range(most, 1, -1)
                 if all(one % other for other in range(2, int(one**0.5) + 1))), 1)  # fmt: skip

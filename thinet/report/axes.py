"""The costs by which networks are compared: the x axis of every chart, the columns of a table.

A cost is an axis where the model and its reference differ in it, whatever made them differ. Where
operations became binary ones, fewer FLOPs are not the whole saving: neither count says it alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from thinet.report import numbers
from thinet.run.result import Measurement, Result

SAME = 0.005
"""Shares that differ by less than this tell the same."""


@dataclass(frozen=True)
class Axis:
    """A cost of a network.

    Attributes:
        key: The field of a :class:`Measurement`.
        name: For people.
        saved: What a difference is called: ``FLOPs removed``.
        write: A value as text.
        less: The word for a lower cost.
        more: The word for a higher cost.
        zero_is_known: Whether 0 is a value; if not, it says that nobody counted.
        measured: Whether it differs from one measurement of a network to the next.
        apart: What is not in it, where networks have that.
        optional: Whether a network may do without, so that none of it is no merit.
    """

    key: str
    name: str
    saved: str
    write: Callable[[float | None], str] = numbers.human
    less: str = "fewer"
    more: str = "more"
    zero_is_known: bool = True
    measured: bool = False
    apart: str = ""
    optional: bool = False

    def of(self, one: Measurement) -> float | None:
        """The cost of a network; None if it is not known."""
        value = one.figures()[self.key]
        if value is None or not math.isfinite(value) or (not value and not self.zero_is_known):
            return None
        return value

    def removed(self, result: Result) -> float | None:
        """The fraction of the reference's cost that is gone; 0 if there is no other network."""
        if result.model is None:
            return 0.0
        before, after = self.of(result.reference), self.of(result.model)
        return None if not before or after is None else 1 - after / before

    def differs(self, result: Result) -> bool:
        """Whether model and reference differ in it."""
        before, after = self.of(result.reference), self.of(result.final)
        return None not in (before, after) and before != after

    def change(self, before: Measurement, after: Measurement) -> str:
        """The change in words, such as ``3.31x fewer``; ``added`` where there was none."""
        old, new = self.of(before), self.of(after)
        if old == 0 and new:
            return "added"
        return numbers.change(old, new, self.less, self.more)


FLOPS = Axis("flops", "FLOPs", "FLOPs removed")
PARAMS = Axis("params", "parameters", "parameters removed")
BINARY = Axis("binary_ops", "binary operations", "binary operations removed", optional=True)
BITS = Axis("bits", "bits of parameters", "bits removed", zero_is_known=False)
SIZE = Axis(
    "size_mb", "size", "size removed", lambda size: numbers.data(size and size * 2**20),
    "smaller", "larger",
)  # fmt: skip
AXES = (
    FLOPS,
    BINARY,
    PARAMS,
    BITS,
    SIZE,
    Axis(
        "latency_ms", "latency", "latency removed", numbers.milliseconds, "faster", "slower",
        measured=True,
    ),
)  # fmt: skip


_MOVED = (BITS, BINARY, replace(FLOPS, apart=BINARY.name))
"""What comes first where operations became binary ones."""


def moved(result: Result) -> bool:
    """Whether operations in floating point became binary ones."""
    return result.final.binary_ops > result.reference.binary_ops


def axes(results: Iterable[Result]) -> list[Axis]:
    """The costs in which at least one model differs from its reference, the main one first.

    One in which all of them differ as in one that stands before it, such as bytes where each
    parameter takes four, says nothing new and is left out. Where operations became binary ones,
    bits and both kinds of operations stay, and the first is one in which the models differ among
    each other, bits if nothing else says so.
    """
    known = list(results)
    if not any(map(moved, known)):
        return _differing(AXES, known, [])
    own = {one.key for one in _MOVED}
    first = [axis for axis in _MOVED if any(map(axis.differs, known))]
    found = _differing([axis for axis in AXES if axis.key not in own], known, first)
    return sorted(found, key=lambda axis: axis.measured or not _spread(axis, known))


def _differing(
    candidates: Iterable[Axis], results: Sequence[Result], found: Sequence[Axis]
) -> list[Axis]:
    """Those found already, and the others that differ, each in a way of its own."""
    kept = list(found)
    for axis in candidates:
        differs = any(map(axis.differs, results))
        if differs and not any(_alike(axis, other, results) for other in kept):
            kept.append(axis)
    return kept


def _spread(axis: Axis, results: Sequence[Result]) -> bool:
    """Whether models differ from each other in a cost."""
    costs = [axis.of(one.final) for one in results if one.model]
    there = [cost for cost in costs if cost is not None]
    return max(there, default=0) > (1 + SAME) * min(there, default=0)


def _alike(one: Axis, other: Axis, results: Sequence[Result]) -> bool:
    for result in results:
        a, b = one.removed(result), other.removed(result)
        if (a is None) != (b is None):
            return False
        if a is not None and b is not None and abs(a - b) > SAME:
            return False
    return not one.measured

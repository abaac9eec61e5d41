"""The costs by which networks are compared: the x axis of every chart, the columns of a table.

A cost is an axis where the model and its reference differ in it, whatever made them differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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
    """

    key: str
    name: str
    saved: str
    write: Callable[[float | None], str] = numbers.human
    less: str = "fewer"
    more: str = "more"
    zero_is_known: bool = True
    measured: bool = False

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
        """The change in words, such as ``3.31x fewer``."""
        return numbers.change(self.of(before), self.of(after), self.less, self.more)


FLOPS = Axis("flops", "FLOPs", "FLOPs removed")
PARAMS = Axis("params", "parameters", "parameters removed")
AXES = (
    FLOPS,
    Axis("binary_ops", "binary operations", "binary operations removed"),
    PARAMS,
    Axis("bits", "bits of parameters", "bits removed", zero_is_known=False),
    Axis("size_mb", "size", "size removed", numbers.megabytes, "smaller", "larger"),
    Axis(
        "latency_ms", "latency", "latency removed", numbers.milliseconds, "faster", "slower",
        measured=True,
    ),
)  # fmt: skip


def axes(results: Iterable[Result]) -> list[Axis]:
    """The costs in which at least one model differs from its reference, the main one first.

    One in which all of them differ as in one that stands before it, such as bytes where each
    parameter takes four, says nothing new and is left out.
    """
    known = list(results)
    found: list[Axis] = []
    for axis in AXES:
        differing = [result for result in known if axis.differs(result)]
        if differing and not any(_alike(axis, other, known) for other in found):
            found.append(axis)
    return found


def _alike(one: Axis, other: Axis, results: Sequence[Result]) -> bool:
    for result in results:
        a, b = one.removed(result), other.removed(result)
        if (a is None) != (b is None):
            return False
        if a is not None and b is not None and abs(a - b) > SAME:
            return False
    return not one.measured

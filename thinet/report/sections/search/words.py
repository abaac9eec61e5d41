"""A search of widths in words: what was searched, what it found, how much of that is chance."""

from __future__ import annotations

import math
import statistics

from thinet.report import numbers, style
from thinet.report.sections.search.details import Candidate, SearchDetails, WidthRow
from thinet.run.result import Measurement

KINDS = {"flops": "FLOPs", "params": "parameters", "latency": "latency"}
"""What a budget counts, for people."""
FOUND, EVEN = "found", "uniform"
"""The names of what is trained at the end."""


def counted(found: SearchDetails) -> str:
    """What the budget counts."""
    return KINDS.get(found.kind, found.kind)


def best_of(found: SearchDetails) -> Candidate | None:
    """The widths that were found; None if nothing was judged."""
    return found.candidates[found.best] if found.candidates else None


def trained(found: SearchDetails, name: str) -> Measurement | None:
    """What came of some widths after training; None if they were not trained."""
    return next((one.measurement for one in found.trained if one.name == name), None)


def named(row: WidthRow, most: int) -> str:
    """The first layers of a group, and how many more are as wide as they."""
    names = ", ".join(style.short(layer) for layer in row.layers[:most]) or numbers.MISSING
    more = len(row.layers) - most
    return f"{names} + {more} more" if more > 0 else names


def standard_error(found: SearchDetails) -> float:
    """Of the error of a candidate, as it is on the average: sqrt(e (1 - e) / images)."""
    if not found.candidates or not found.images:
        return found.standard_error
    mean = statistics.fmean(one.error * (1 - one.error) for one in found.candidates)
    return math.sqrt(mean / found.images)


def sentences(found: SearchDetails) -> list[str]:
    """What was searched and what came of it, for the page and the terminal."""
    return [
        *_gain(found),
        _searched(found),
        *_seen(found),
        *_chance(found),
        *_front(found),
        *_time(found),
    ]


def _gain(found: SearchDetails) -> list[str]:
    """What the search is worth after training."""
    ours, even = trained(found, FOUND), trained(found, EVEN)
    if ours is None or even is None:
        return []
    before, after = even.top1, ours.top1
    if before is None or after is None:
        return []
    text = (
        f"found against uniform widths, trained alike{_for_epochs(found)}: "
        f"{numbers.points(before, after)} of top-1 ({numbers.percent(after)} against "
        f"{numbers.percent(before)})"
    )
    if found.uniform is not None and found.uniform.cost < found.low:
        text += (
            f"; uniform widths have but {_share(found.uniform.cost)} of the {counted(found)}, the "
            "nearest scale below the budget, so that a part of this is their size"
        )
    return [text]


def _for_epochs(found: SearchDetails) -> str:
    return f" for {_count(found.epochs, 'epoch')}" if found.epochs else ""


def _searched(found: SearchDetails) -> str:
    net = ""
    if found.hypernet_parameters:
        net = f" ({numbers.human(found.hypernet_parameters)} parameters trained for it)"
    text = (
        f"{len(found.candidates):,} widths of {_count(len(found.widths), 'group')} of layers "
        f"judged by proxy {found.proxy}{net} in {_count(found.generations, 'generation')} "
        f"within {found.target}: {_share(found.low)} to {_share(found.high)} of the full "
        f"network's {counted(found)}"
    )
    calibrated = f", BatchNorm re-estimated on {found.calibration:,}" if found.calibration else ""
    return f"{text}; each on {found.images:,} validation images{calibrated}"


def _seen(found: SearchDetails) -> list[str]:
    """What the proxy sees in the best and in the uniform widths, and what that is worth."""
    best = best_of(found)
    if best is None:
        return []
    text = f"error as the proxy sees it: found {numbers.percent(best.error)}"
    if found.uniform is not None:
        text += f", uniform {numbers.percent(found.uniform.error)}"
    text += "; these errors rank widths and are no accuracies to expect"
    count = len(found.candidates)
    return [f"{text}, and the least of {count:,} is too good by chance" if count > 1 else text]


def _chance(found: SearchDetails) -> list[str]:
    """How much of what tells candidates apart comes from there being so few images."""
    if len(found.candidates) < 2:
        return []
    spread = statistics.stdev(one.error for one in found.candidates)
    chance = standard_error(found)
    text = (
        f"candidates differ by {_points(spread)} (standard deviation of their errors); the "
        f"standard error of each is {_points(chance)}, at most {_points(found.standard_error)}"
    )
    if chance >= spread:
        return [f"{text}: chance alone could tell them apart so, judge on more search.images"]
    return [f"{text}: up to {numbers.percent((chance / spread) ** 2, 0)} of their variance is "
            "chance"]  # fmt: skip


def _front(found: SearchDetails) -> list[str]:
    if not found.front:
        return []
    costs = [found.candidates[place].cost for place in found.front]
    return [
        f"{_count(len(costs), 'candidate')} on the front of error and {counted(found)}, from "
        f"{_share(min(costs))} to {_share(max(costs))} of the full network's"
    ]


def _time(found: SearchDetails) -> list[str]:
    parts = [f"{name} {numbers.seconds(spent)}" for name, spent in found.seconds.items()]
    return [f"time: {', '.join(parts)}"] if parts else []


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number:,} {what}s"


def _share(fraction: float) -> str:
    return numbers.percent(fraction, 1)


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2f} points"

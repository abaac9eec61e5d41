"""Numbers as people read them: 30.94 B, 83.20 %, -1.20 points, 3.31x, 2 min 05 s."""

from __future__ import annotations

import math

MISSING = "n/a"


def _known(*values: float | None) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)


def human(value: float | None) -> str:
    """Shorten a count with the decimal suffixes K, M, B and T: ``30.94e9 -> '30.94 B'``."""
    if value is None or not math.isfinite(value):
        return MISSING
    for suffix, unit in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        # 999,996 would print as "1000.00 K": what rounds up to a unit is written in that unit
        if round(abs(value) / unit, 5) >= 1:
            return f"{value / unit:.2f} {suffix}"
    return f"{value:.0f}" if value == int(value) else f"{value:.2f}"


def percent(fraction: float | None, digits: int = 2) -> str:
    """Write a fraction in [0, 1] as a percentage: ``0.832 -> '83.20 %'``."""
    if fraction is None or not math.isfinite(fraction):
        return MISSING
    return f"{100 * fraction:.{digits}f} %"


def points(before: float | None, after: float | None) -> str:
    """Write the step from one accuracy (a fraction) to another: ``'-1.20 points'``."""
    if before is None or after is None or not _known(before, after):
        return MISSING
    step = round(100 * (after - before), 2) + 0.0  # adding 0.0 turns -0.0 into 0.0
    return f"{step:+.2f} points"


def ratio(before: float | None, after: float | None) -> str:
    """Write how many times smaller ``after`` is than ``before``: ``'3.31x'``."""
    if before is None or not after or not _known(before, after):
        return MISSING
    return f"{before / after:.2f}x"


def change(before: float | None, after: float | None, less: str, more: str) -> str:
    """Write a change of a cost in words, such as ``'3.31x fewer'`` or ``'1.10x slower'``.

    Args:
        before: Cost before.
        after: Cost after, in the same unit.
        less: The word for a lower cost.
        more: The word for a higher cost.
    """
    if not before or not after or not _known(before, after):
        return MISSING
    if round(max(before / after, after / before), 2) == 1:
        return "unchanged"
    if after < before:
        return f"{ratio(before, after)} {less}"
    return f"{ratio(after, before)} {more}"


def seconds(duration: float | None) -> str:
    """Write a duration: ``'0.42 s'``, ``'9.5 s'``, ``'2 min 05 s'``, ``'1 h 02 min'``."""
    if duration is None or not math.isfinite(duration):
        return MISSING
    if duration < 1:
        return f"{duration:.2f} s"
    if duration < 59.95:
        return f"{duration:.1f} s"
    whole = round(duration)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(duration / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def data(size: float | None) -> str:
    """Write a number of bytes in units of 1024: ``'527.79 MB'``, ``'58.30 KB'``, ``'96 B'``."""
    if size is None or not math.isfinite(size):
        return MISSING
    for suffix, unit in (("GB", 2**30), ("MB", 2**20), ("KB", 2**10)):
        if round(abs(size) / unit, 5) >= 1:
            return f"{size / unit:.2f} {suffix}"
    return f"{size:.0f} B"


def megabytes(size: float | None, digits: int = 2) -> str:
    """Write a size given in megabytes: ``'527.79 MB'``."""
    return f"{size:.{digits}f} MB" if size is not None and math.isfinite(size) else MISSING


def milliseconds(duration: float | None) -> str:
    """Write a duration given in milliseconds: ``'12.30 ms'``."""
    return f"{duration:.2f} ms" if duration is not None and math.isfinite(duration) else MISSING

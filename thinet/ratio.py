"""What ``ratio`` means: the fraction of filters that is kept, the paper's r.

Imported before torch, so that a wrong ratio is reported at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from thinet.errors import ThinetError


def kept_count(filters: int, ratio: float) -> int:
    """How many of ``filters`` stay at ``ratio``: ``floor(filters * ratio)``, at least 1.

    The paper's code truncates too; the small term keeps 0.29 * 100 from becoming 28.
    """
    return max(1, math.floor(filters * ratio + 1e-9))


def check_ratio(ratio: float | Mapping[str, float]) -> None:
    """Raise :class:`ThinetError` unless every ratio is a number in (0, 1]."""
    values = ratio if isinstance(ratio, Mapping) else {"": ratio}
    for name, value in values.items():
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1
        if not good:
            place = f" for {name!r}" if name else ""
            raise ThinetError(
                f"ratio={value!s}{place} is not a number in (0, 1]: it is the fraction of filters "
                "to keep, for example ratio=0.5."
            )

"""Image files that cannot be decoded: left out and counted, up to a limit."""

from __future__ import annotations

from typing import NamedTuple

from thinet.base.errors import ThinetError
from thinet.base.messages import say

SHOWN = 5


class Unreadable(NamedTuple):
    """What stands in a batch for an image that cannot be decoded."""

    path: str
    reason: str


class UnreadableImages:
    """The files of a data set that could not be decoded so far.

    Args:
        fraction: How many of all its images may be, in [0, 1).

    Attributes:
        found: Why, by file.
        total: How many images the data set has; not judged before this is known.
    """

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction
        self.found: dict[str, str] = {}
        self.total: int | None = None

    @property
    def limit(self) -> int:
        """How many files may be left out."""
        return int(self.fraction * (self.total or 0))

    def begin(self, total: int) -> None:
        """Take the number of all images, and judge what has been found so far.

        Raises:
            ThinetError: If there are too many unreadable ones already.
        """
        self.total = total
        self._judge()
        for place, (path, reason) in enumerate(self.found.items(), 1):
            self._say(path, reason, place)

    def note(self, path: str, reason: str) -> None:
        """Count a file, once.

        Raises:
            ThinetError: If there are too many.
        """
        if path not in self.found:
            self.found[path] = reason
            if self.total is not None:
                self._judge()
                self._say(path, reason, len(self.found))

    def _say(self, path: str, reason: str, place: int) -> None:
        say(
            f"data: {path} cannot be read ({reason}) and is left out, "
            f"{place} of at most {self.limit}"
        )

    def _judge(self) -> None:
        assert self.total is not None
        if len(self.found) <= self.limit:
            return
        files = [f"{path} ({reason})" for path, reason in list(self.found.items())[:SHOWN]]
        more = f" and {len(self.found) - SHOWN} more" if len(self.found) > SHOWN else ""
        share = len(self.found) / self.total
        raise ThinetError(
            f"{len(self.found)} of {self.total} images cannot be read, {self.limit} may be: "
            f"{', '.join(files)}{more}; replace or delete them, or type "
            f"dataset.max_unreadable={_up(share)} to leave out so large a fraction."
        )


def _up(share: float) -> str:
    """A round fraction a little above ``share``."""
    for rounded in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        if share <= rounded:
            return f"{rounded:g}"
    return "0.99"

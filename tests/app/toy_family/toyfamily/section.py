"""What the family has to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from thinet.report.sections import Section


@dataclass(frozen=True)
class SlopesDetails:
    """The mean slope after each round."""

    means: tuple[float, ...]


@dataclass(frozen=True)
class Slopes(Section[SlopesDetails]):
    """The section of slopes."""

    key: ClassVar[str] = "toyfamily"
    kind: ClassVar[type[object]] = SlopesDetails

    def lines(self) -> Sequence[str]:
        return [f"mean slopes learned: {', '.join(f'{one:.4f}' for one in self.found.means)}"]

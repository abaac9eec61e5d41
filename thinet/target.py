"""What ``target`` and ``allocation`` mean: a budget for the whole network, and who pays for it.

Imported before torch, so that a wrong target is reported at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from thinet.errors import ThinetError

KINDS = ("flops", "params", "latency")
ALLOCATIONS = ("uniform", "error")
RECALIBRATION = ("after", "each", "never")


@dataclass(frozen=True)
class Target:
    """A budget for the slim network.

    Attributes:
        kind: ``flops``, ``params`` or ``latency`` (measured on the device at batch 1).
        fraction: What may be left of the full network's, in (0, 1).
    """

    kind: str
    fraction: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.fraction:g}"

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ``flops:0.5``.

        Raises:
            ThinetError: If it is not a kind and a fraction in (0, 1).
        """
        kind, _, number = str(text).partition(":")
        try:
            fraction = float(number)
        except ValueError:
            fraction = -1.0
        if kind not in KINDS or not 0 < fraction < 1:
            raise ThinetError(
                f"target={text} is not one of {', '.join(KINDS)} with the fraction in (0, 1) that "
                "may be left: type for example target=flops:0.5."
            )
        return cls(kind, fraction)


@dataclass(frozen=True)
class Widths:
    """How the widths of a slim network are to be found.

    Attributes:
        target: A budget, or None for ratios.
        allocation: ``uniform``: one ratio for all groups; ``error``: where the loss for each
            unit of cost is least.
        round_to: Widths become multiples of this.
    """

    target: Target | None = None
    allocation: str = "uniform"
    round_to: int = 1

    def __post_init__(self) -> None:
        if self.allocation not in ALLOCATIONS:
            raise ThinetError(
                f"allocation={self.allocation} is unknown: choose among {', '.join(ALLOCATIONS)}."
            )
        if self.allocation == "error" and self.target is None:
            raise ThinetError(
                "allocation=error spreads a budget and needs one: type for example "
                "target=flops:0.5."
            )
        if isinstance(self.round_to, bool) or not isinstance(self.round_to, int):
            raise ThinetError(f"round_to={self.round_to} is not a whole number: type round_to=8.")
        if self.round_to < 1:
            raise ThinetError(f"round_to={self.round_to} is below 1: type round_to=8.")


def recalibration(when: object) -> str:
    """When BatchNorms are re-estimated: one of :data:`RECALIBRATION`; true is after, false never.

    Raises:
        ThinetError: If it is none of them.
    """
    if isinstance(when, bool):
        return "after" if when else "never"
    if when not in RECALIBRATION:
        raise ThinetError(
            f"recalibrate_bn={when} is unknown: choose among {', '.join(RECALIBRATION)}."
        )
    return str(when)

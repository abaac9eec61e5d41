"""What ``target`` and ``allocation`` mean: a budget for the whole network, and who pays for it.

Imported before torch, so that a wrong target is reported at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from thinet.base.errors import ThinetError
from thinet.base.values import is_number, shown, whole

KINDS = ("flops", "params", "latency")
ALLOCATIONS = ("uniform", "error")
RECALIBRATION = ("after", "each", "never")


@dataclass(frozen=True)
class Target:
    """A budget for the slim network.

    Attributes:
        kind: ``flops``, ``params`` or ``latency`` (measured on the device at batch 1).
        fraction: What may be left of the full network's, in (0, 1).
        key: The setting that it stands in, for messages.
    """

    kind: str
    fraction: float
    key: str = field(default="target", compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS or not is_number(self.fraction) or not 0 < self.fraction < 1:
            raise _no_target(f"{self.kind}:{self.fraction}", self.key)

    def __str__(self) -> str:
        return f"{self.kind}:{self.fraction:g}"

    @classmethod
    def parse(cls, text: str, key: str = "target") -> Target:
        """Read ``flops:0.5``.

        Raises:
            ThinetError: If it is not a kind and a fraction in (0, 1).
        """
        if not isinstance(text, str):
            raise _no_target(text, key)
        kind, _, number = text.partition(":")
        try:
            return cls(kind, float(number), key)
        except (ValueError, ThinetError) as error:
            raise _no_target(text, key) from error


def _no_target(given: object, key: str) -> ThinetError:
    return ThinetError(
        f"{key}={shown(given)} is not one of {', '.join(KINDS)} with the fraction in (0, 1) that "
        f"may be left: type for example {key}=flops:0.5."
    )


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
        if self.target is not None and not isinstance(self.target, Target):
            raise _no_target(self.target)
        if self.allocation not in ALLOCATIONS:
            raise ThinetError(
                f"allocation={shown(self.allocation)} is unknown: choose among "
                f"{', '.join(ALLOCATIONS)}."
            )
        if self.allocation == "error" and self.target is None:
            raise ThinetError(
                "allocation=error spreads a budget and needs one: type for example "
                "target=flops:0.5."
            )
        object.__setattr__(self, "round_to", whole("round_to", self.round_to, "8"))


def recalibration(when: object) -> str:
    """When BatchNorms are re-estimated: one of :data:`RECALIBRATION`; true is after, false never.

    Raises:
        ThinetError: If it is none of them.
    """
    if isinstance(when, bool):
        return "after" if when else "never"
    if when not in RECALIBRATION:
        raise ThinetError(
            f"recalibrate_bn={shown(when)} is unknown: choose among {', '.join(RECALIBRATION)}."
        )
    return str(when)

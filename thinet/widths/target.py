"""What ``target`` and ``allocation`` mean: a budget for the whole network, and who pays for it.

Imported before torch, so that a wrong target is reported at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from thinet.base.errors import SettingError, ThinetError
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
        setting: It was given in, as messages call it.
    """

    kind: str
    fraction: float
    setting: str = field(default="target", compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS or not is_number(self.fraction) or not 0 < self.fraction < 1:
            raise _no_target(f"{self.kind}:{self.fraction}", self.setting)

    def __str__(self) -> str:
        return f"{self.kind}:{self.fraction:g}"

    @classmethod
    def parse(cls, text: str, setting: str = "target") -> Target:
        """Read ``flops:0.5``.

        Args:
            text: What was typed.
            setting: Where.

        Raises:
            ThinetError: If it is not a kind and a fraction in (0, 1).
        """
        if not isinstance(text, str):
            raise _no_target(text, setting)
        kind, _, number = text.partition(":")
        try:
            return cls(kind, float(number), setting)
        except (ValueError, ThinetError) as error:
            raise _no_target(text, setting) from error


def _no_target(given: object, setting: str = "target") -> ThinetError:
    return SettingError(
        f"{setting}={shown(given)} is not one of {', '.join(KINDS)} with the fraction in (0, 1) "
        "that may be left",
        setting,
        "flops:0.5",
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


def recalibration(when: object, setting: str = "recalibrate_bn") -> str:
    """When BatchNorms are re-estimated: one of :data:`RECALIBRATION`; true is after, false never.

    Args:
        when: What was given.
        setting: It was given in, as messages call it.

    Raises:
        ThinetError: If it is none of them.
    """
    if isinstance(when, bool):
        return "after" if when else "never"
    if when not in RECALIBRATION:
        raise ThinetError(
            f"{setting}={shown(when)} is unknown: choose among {', '.join(RECALIBRATION)}."
        )
    return str(when)

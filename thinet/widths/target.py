"""What ``target`` and ``allocation`` mean: a budget for the whole network, and who pays for it.

Imported before torch, so that a wrong target is reported at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from thinet.base.errors import SettingError, ThinetError
from thinet.base.values import is_number, shown, whole

KINDS = ("flops", "params", "latency")
ALLOCATIONS = ("uniform", "error")
RECALIBRATION = ("after", "each", "never")

_EXAMPLES = {"flops": "flops:0.5", "macs": "macs:75M", "params": "params:0.4",
             "latency": "latency:0.6"}  # fmt: skip
_COUNTS = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}
_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_AMOUNT = re.compile(r"((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([a-zA-Z]+)")


@dataclass(frozen=True)
class Target:
    """A budget for the slim network: a fraction of what the full one has, or an amount.

    Attributes:
        kind: ``flops``, ``params`` or ``latency`` (measured on the device at batch 1).
        fraction: What may be left of the full network's, in (0, 1); None where an amount may.
        amount: How many FLOPs, parameters or milliseconds may be left; None where a fraction may.
        setting: It was given in, as messages call it.
        text: As it was typed; it may speak of MACs, of which each is two FLOPs.
    """

    kind: str
    fraction: float | None = None
    amount: float | None = field(default=None, kw_only=True)
    setting: str = field(default="target", compare=False, repr=False, kw_only=True)
    text: str = field(default="", compare=False, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        good = self.kind in KINDS and (self.fraction is None) is not (self.amount is None)
        if self.fraction is not None:
            good = good and is_number(self.fraction) and 0 < self.fraction < 1
        if self.amount is not None:
            good = good and is_number(self.amount) and self.amount > 0
        if not good:
            given = self.amount if self.fraction is None else self.fraction
            raise _no_target(self.text or f"{self.kind}:{given}", self.setting)
        if not self.text:
            object.__setattr__(self, "text", f"{self.kind}:{self._typed()}")

    def __str__(self) -> str:
        return self.text

    def _typed(self) -> str:
        """The number as one would type it."""
        if self.fraction is not None:
            return f"{self.fraction:g}"
        return amount_text(self.kind, self.amount or 0)

    @property
    def word(self) -> str:
        """What is counted, as it was typed: ``macs`` is a word for FLOPs."""
        return self.text.partition(":")[0]

    @property
    def bound(self) -> str:
        """What may be left, in words: ``0.5 of the flops``, ``150M flops``, ``3ms latency``."""
        of = "" if self.fraction is None else "of the "
        return f"{self.text.partition(':')[2].strip()} {of}{self.word}"

    def fraction_of(self, full: float) -> float:
        """What may be left, as a fraction of what the full network has.

        Args:
            full: Its FLOPs, parameters or milliseconds.

        Raises:
            ThinetError: If an amount is no less than that.
        """
        if self.amount is None:
            assert self.fraction is not None  # see __post_init__
            return self.fraction
        if self.amount >= full:
            each = 2 if self.word == "macs" else 1
            raise SettingError(
                f"{self.setting}={self} leaves nothing to save, since the full network has "
                f"{amount_text(self.kind, full / each)} {self.word}",
                self.setting,
                f"{self.word}:{amount_text(self.kind, full / each / 2)}",
            )
        return self.amount / full

    def admits(self, left: float, full: float) -> bool:
        """Whether ``left`` is within the budget where the full network has ``full``."""
        if self.amount is not None:
            return left <= self.amount
        assert self.fraction is not None  # see __post_init__
        return left <= self.fraction * full

    @classmethod
    def parse(cls, text: str, setting: str = "target") -> Target:
        """Read ``flops:0.5``, ``flops:150M``, ``macs:75M``, ``params:1.2M`` or ``latency:3ms``.

        Args:
            text: What was typed.
            setting: Where.

        Raises:
            ThinetError: If it is not a kind and a fraction in (0, 1), or an amount with its unit.
        """
        if not isinstance(text, str):
            raise _no_target(text, setting)
        word, _, number = text.partition(":")
        kind = "flops" if word == "macs" else word
        parts = _AMOUNT.fullmatch(number.strip())
        unit = (_TIMES if kind == "latency" else _COUNTS).get(parts[2].lower()) if parts else None
        if parts and unit:
            amount = float(parts[1]) * unit * (2 if word == "macs" else 1)
            return cls(kind, amount=amount, setting=setting, text=text)
        try:
            return cls(kind, float(number), setting=setting, text=text)
        except (ValueError, ThinetError) as error:
            raise _no_target(text, setting) from error


def amount_text(kind: str, amount: float) -> str:
    """An amount as it is typed: ``150M``, ``1.2M``, ``3ms``, ``800us``.

    Args:
        kind: Of :data:`KINDS`.
        amount: FLOPs or parameters, or milliseconds.
    """
    if kind == "latency":
        return f"{amount:.4g}ms" if amount >= 1 else f"{1e3 * amount:.4g}us"
    suffix = next((one for one in ("g", "m") if amount >= _COUNTS[one]), "k")
    return f"{amount / _COUNTS[suffix]:.4g}{suffix.upper()}"


def _no_target(given: object, setting: str = "target") -> ThinetError:
    return SettingError(
        f"{setting}={shown(given)} is not one of {', '.join(_EXAMPLES)} with the fraction in "
        "(0, 1) or the amount (flops:150M, params:1.2M, latency:3ms) that may be left",
        setting,
        _EXAMPLES.get(str(given).partition(":")[0], "flops:0.5"),
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

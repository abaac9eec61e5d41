"""Settings of the binarisation of activations, read before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass

from thinet.base.errors import SettingError
from thinet.base.values import is_number, shown

SCALES = ("sample", "patch", "constant")
"""What a scale is the mean of: an image, what a filter sees at one position, or nothing: fixed."""
HIGHEST = 8
"""Largest order; the error of a normal input is below 1 % of its variance by then."""


@dataclass(frozen=True)
class Quantizer:
    """Settings of the binarisation of activations.

    Attributes:
        order: K, the number of bits of an activation.
        scale: What each b_k is the mean of: see :data:`SCALES`;
            ``constant`` ones are running means of the training batches'.
        clip: Where the straight-through gradient ends.

    Raises:
        ThinetError: If a value makes no sense.
    """

    order: int = 2
    scale: str = "sample"
    clip: float = 1.0

    def __post_init__(self) -> None:
        check_order(self.order)
        if self.scale not in SCALES:
            raise SettingError(
                f"scale={shown(self.scale)} is none of {', '.join(SCALES)}", "scale", "sample"
            )
        if not is_number(self.clip) or not 0 < self.clip <= 1000:
            raise SettingError(f"clip={shown(self.clip)} is not a positive number", "clip", "1.0")


def check_order(order: int) -> None:
    """Refuse what is no order.

    Raises:
        ThinetError: If it is not a whole number from 1 to :data:`HIGHEST`.
    """
    whole = isinstance(order, int) and not isinstance(order, bool)
    if not whole or not 1 <= order <= HIGHEST:
        raise SettingError(
            f"order={shown(order)} is not a whole number from 1 to {HIGHEST}", "order", "2"
        )

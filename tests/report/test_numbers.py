from __future__ import annotations

import math

import pytest

from thinet.report import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (30_940_000_000, "30.94 B"),
        (30.94e9, "30.94 B"),
        (138_344_128, "138.34 M"),
        (2.2e12, "2.20 T"),
        (1000, "1.00 K"),
        (999, "999"),
        (0, "0"),
        (0.5, "0.50"),
        (-1500, "-1.50 K"),
        (999_996, "1.00 M"),
        (999_994, "999.99 K"),
        (None, "n/a"),
        (math.nan, "n/a"),
    ],
)
def test_human(value: float | None, text: str) -> None:
    assert numbers.human(value) == text


def test_accuracies() -> None:
    assert numbers.percent(0.832) == "83.20 %"
    assert numbers.percent(0.691, 0) == "69 %"
    assert numbers.percent(None) == "n/a"
    assert numbers.points(0.9889, 0.9769) == "-1.20 points"
    assert numbers.points(0.5, 0.5125) == "+1.25 points"
    assert numbers.points(0.700001, 0.7) == "+0.00 points"  # not -0.00
    assert numbers.points(None, 0.7) == "n/a"


def test_ratios_and_changes() -> None:
    assert numbers.ratio(30.94, 9.34) == "3.31x"
    assert numbers.ratio(1, 0) == "n/a"
    assert numbers.change(30.94, 9.34, "fewer", "more") == "3.31x fewer"
    assert numbers.change(10, 11, "faster", "slower") == "1.10x slower"
    assert numbers.change(10, 10.01, "faster", "slower") == "unchanged"
    assert numbers.change(None, 10, "faster", "slower") == "n/a"


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0.421, "0.42 s"),
        (9.5, "9.5 s"),
        (59.99, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.9, "1 h 00 min"),
        (3725, "1 h 02 min"),
        (None, "n/a"),
    ],
)
def test_seconds(duration: float | None, text: str) -> None:
    assert numbers.seconds(duration) == text


def test_units() -> None:
    assert numbers.megabytes(527.792) == "527.79 MB"
    assert numbers.milliseconds(12.3) == "12.30 ms"

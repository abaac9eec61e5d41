"""What a ratio means."""

from __future__ import annotations

from fractions import Fraction

import pytest

from thinet.base.errors import ThinetError
from thinet.widths.ratio import check_ratio, kept_count


@pytest.mark.parametrize(
    ("filters", "ratio", "kept"),
    [
        (100, 0.29, 29), (100, 0.57, 57), (200, 0.58, 116), (64, 0.3, 19), (256, 0.7, 179),
        (512, 0.3, 153), (64, 0.5, 32), (7, 0.5, 3), (3, 0.1, 1), (1, 0.5, 1), (5, 1.0, 5),
        (10, 1, 10), (1000, 0.001, 1), (64, 1e-9, 1),
    ],
)  # fmt: skip
def test_the_kept_count_is_the_floor_but_at_least_one(filters, ratio, kept):
    assert kept_count(filters, ratio) == kept


def test_every_ratio_of_two_decimals_is_taken_as_it_is_written():
    for hundredths in range(1, 101):
        for filters in (*range(1, 65), 100, 128, 200, 256, 512, 1024, 2048):
            exact = Fraction(hundredths, 100) * filters
            assert kept_count(filters, hundredths / 100) == max(1, int(exact))


@pytest.mark.parametrize("ratio", [0.5, 1, 1.0, 1e-6, {"a": 0.5, "b*": 1}])
def test_ratios_above_zero_and_up_to_one_are_good(ratio):
    check_ratio(ratio)


@pytest.mark.parametrize(
    "ratio", [0, 0.0, -0.1, 1.0001, 5, float("nan"), float("inf"), "0.5", None, True, [0.5]]
)
def test_others_are_refused_with_an_example(ratio):
    with pytest.raises(ThinetError, match=r"to keep, for example ratio=0\.5"):
        check_ratio(ratio)


def test_a_bad_ratio_in_a_mapping_is_named():
    with pytest.raises(ThinetError, match=r"ratio=2 for 'features\.3'"):
        check_ratio({"features.0": 0.5, "features.3": 2})

"""The paper's theoretical speed-ups."""

from __future__ import annotations

import pytest

from thinet.quantization.theory import theoretical_speedup

TABLE = {  # channels and places of a filter: orders 1 to 4
    (128, 9): (57.6, 29.5, 19.9, 15.0),
    (256, 9): (60.6, 30.7, 20.6, 15.5),
    (64, 9): (52.4, 27.4, 18.6, 14.1),
    (256, 1): (42.7, 23.3, 16.0, 12.2),
    (3, 9): (11.2, 7.0, 5.1, 4.0),
}


@pytest.mark.parametrize("layer", TABLE)
def test_the_table(layer):
    found = tuple(theoretical_speedup(order, *layer) for order in range(1, 5))
    assert found == pytest.approx(TABLE[layer], abs=0.06)  # printed with one decimal


def test_the_papers_own_row():
    """Table 2: 58x, about 30x, 20x and 15x, which is the row of 128 channels and 3x3."""
    found = [round(theoretical_speedup(order, 128, 9)) for order in range(1, 5)]
    assert found == [58, 30, 20, 15]

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from thinet.report.style import spread


def test_positions_with_room_stay() -> None:
    assert spread([9.0, 1.0, 5.0], 2.0, 0.0, 10.0) == [9.0, 1.0, 5.0]


def test_a_pair_moves_apart_around_its_middle() -> None:
    assert spread([5.2, 5.0], 1.0, 0.0, 10.0) == pytest.approx([5.6, 4.6])


def test_labels_never_touch_swap_or_leave_the_axes() -> None:
    generator = random.Random(0)
    for _ in range(300):
        count = generator.randint(1, 12)
        positions = [generator.uniform(0, 10) ** 2 / 10 for _ in range(count)]
        gap = generator.choice([0.1, 0.5, 2.0])
        placed = spread(positions, gap, 0.0, 10.0)

        room = min(gap, 10 / max(count - 1, 1))
        order = sorted(range(count), key=positions.__getitem__)
        for below, above in pairwise(order):
            assert placed[above] - placed[below] >= room - 1e-9
        assert min(placed) >= -1e-9
        assert max(placed) <= 10 + 1e-9

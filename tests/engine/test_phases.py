"""The course of the learning rate against tables written by hand."""

from __future__ import annotations

import itertools
import math

import pytest

from thinet.base.errors import ThinetError
from thinet.engine.phases import Phase, learning_rate

STAGE, GROUP_END, FINAL = Phase(1, 1e-3), Phase(2, 1e-4), Phase(12, 1e-3, "step")


def test_a_constant_phase():
    rate = learning_rate([Phase(2, 0.3)])
    assert [rate(epoch) for epoch in (0, 0.5, 1, 1.99, 2)] == [0.3] * 5


def test_steps_are_thirds_as_in_the_paper():
    """12 epochs at 1e-3, 1e-4, 1e-5."""
    rate = learning_rate([FINAL])
    table = {0: 1e-3, 3.99: 1e-3, 4: 1e-4, 7.99: 1e-4, 8: 1e-5, 11.99: 1e-5, 12: 1e-5}
    assert [rate(epoch) for epoch in table] == pytest.approx(list(table.values()))


@pytest.mark.parametrize("epochs", range(1, 31))
def test_every_third_begins_at_its_own_step(epochs):
    rate = learning_rate([Phase(epochs, 1.0, "step")])
    found = [rate(step / 300) for step in range(0, 300 * epochs, 10)]
    assert [round(math.log10(one)) for one in found] == [
        -(3 * step // (300 * epochs)) for step in range(0, 300 * epochs, 10)
    ]


def test_cosine():
    rate = learning_rate([Phase(4, 0.2, "cosine")])
    table = {0: 0.2, 1: 0.1 * (1 + math.sqrt(0.5)), 2: 0.1, 3: 0.1 * (1 - math.sqrt(0.5)), 4: 0.0}
    assert [rate(epoch) for epoch in table] == pytest.approx(list(table.values()), abs=1e-12)


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine", "step"])
def test_warm_up_rises_in_a_line_from_almost_nothing(decay):
    rate = learning_rate([Phase(8, 0.4, decay, warmup=1.6)])
    assert 0 < rate(0) < 0.001
    assert rate(0.8) == pytest.approx(0.2, rel=2e-3)
    steps = [rate(epoch / 10) for epoch in range(16)]
    assert [b - a for a, b in itertools.pairwise(steps)] == pytest.approx(
        [steps[1] - steps[0]] * 15
    )
    assert rate(1.6) == 0.4
    assert rate(7.99) <= 0.4


def test_warm_up_shortens_the_rest_and_does_not_move_the_end():
    rate = learning_rate([Phase(5, 1.0, "cosine", warmup=1)])
    assert rate(3) == pytest.approx(0.5)
    assert rate(5) == pytest.approx(0.0)


def test_phases_follow_each_other():
    rate = learning_rate([STAGE, GROUP_END, Phase(3, 0.01, "step")])
    table = {0: 1e-3, 0.999: 1e-3, 1: 1e-4, 2.5: 1e-4, 3: 0.01, 4: 1e-3, 5: 1e-4, 6: 1e-4, 60: 1e-4}
    assert [rate(epoch) for epoch in table] == pytest.approx(list(table.values()))


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": -1}, {"epochs": 1.5}, {"epochs": True}, {"epochs": "3"}, {"epochs": None},
     {"lr": 0}, {"lr": -0.1}, {"lr": math.nan}, {"lr": math.inf}, {"lr": "1e-3"}, {"lr": None},
     {"lr": True}, {"decay": "square"}, {"decay": None}, {"warmup": -1}, {"warmup": "a"},
     {"warmup": math.nan}, {"warmup": None}],
    ids=str,
)  # fmt: skip
def test_bad_values_are_refused(wrong):
    (key,) = wrong
    with pytest.raises(ThinetError, match=f"^{key}="):
        Phase(**{"epochs": 1, "lr": 0.1, **wrong})

"""What the terms of the loss may be, without torch."""

from __future__ import annotations

import pytest

from thinet import losses
from thinet.base.errors import ThinetError
from thinet.engine import lesson
from thinet.engine.lesson import Lesson


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("alpha", -0.1), ("alpha", 1.1), ("alpha", True), ("alpha", "x"), ("alpha", float("nan")),
        ("temperature", 0), ("temperature", -1), ("temperature", float("inf")), ("gamma", 0),
        ("temperature", 1e-9), ("beta", -1), ("beta", 1e7), ("beta", "much"),
        ("beta", float("inf")), ("order", 0), ("order", 1.5), ("order", 21),
        ("project", 0), ("normalize", 1), ("feature", ""), ("feature", 3),
        ("kernel", "cosine"), ("precision", "16"),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_one_sentence(key, value):
    with pytest.raises(ThinetError, match=f"{key}={value}"):
        Lesson(**{key: value})


def test_the_usual_ones_and_the_ends_do():
    assert Lesson() == Lesson(0.1, 4.0, 0.0, "rbf", 0.4, 2, True)
    for changed in ({"alpha": 0}, {"alpha": 1}, {"order": None}, {"order": 20}, {"beta": 0}):
        Lesson(**changed)


def test_a_projection_of_nothing_is_refused():
    with pytest.raises(ThinetError, match="which has no weight"):
        Lesson(project=8)
    Lesson(project=8, beta=1)


def test_kernels_are_those_of_the_losses():
    assert lesson.KERNELS == losses.KERNELS

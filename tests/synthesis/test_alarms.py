"""Signs that a training without data goes wrong."""

from __future__ import annotations

import pytest

from thinet.report.sections.synthesis import EpochRow
from thinet.synthesis.alarms import find_alarms, find_collapse
from thinet.synthesis.settings import Course, Losses, Synthesis

SETTINGS = Synthesis(course=Course(epochs=10), losses=Losses(entropy=4.0))


def row(epoch=1, spread=0.9, classes=(10, 10), **figures):
    named = {name.replace("_", "/", 1): value for name, value in figures.items()}
    return EpochRow(epoch, named, classes, spread)


def test_equal_images_and_nothing_left_to_learn_are_a_collapse():
    assert "epoch 3 are all alike" in find_collapse([row(3, 0.01, train_loss=0.001)], SETTINGS)
    assert "synthesis.memory.pool" in find_collapse([row(3, 0.01, train_loss=0.001)], SETTINGS)
    assert not find_collapse([row(3, 0.01, train_loss=0.2)], SETTINGS)
    assert not find_collapse([row(3, 0.5, train_loss=0.001)], SETTINGS)


def test_images_of_one_class_alone_are_a_collapse_once_half_is_over():
    alone = [row(epoch, classes=(0, 128)) for epoch in range(1, 7)]
    found = find_collapse(alone, SETTINGS)
    assert found.startswith("the generator has collapsed: the images of epoch 6 are of few classes")
    assert "100 % of them of class 1" in found
    assert "synthesis.losses.entropy=8" in found
    assert not find_collapse(alone[:5], SETTINGS)
    assert not find_collapse([*alone[:5], row(6, classes=(12, 116))], SETTINGS)
    assert not find_collapse([*alone[:4], row(5), alone[5]], SETTINGS)
    assert not find_collapse(alone[4:], SETTINGS), "two epochs are too few to tell"


def test_of_a_generator_alone_equal_images_are_enough():
    found = find_collapse([row(2, 0.01)], SETTINGS)
    assert "collapsed" in found
    assert "memory" not in found  # which is for a student beside it
    assert not find_collapse([row(2, 0.5)], SETTINGS)


@pytest.mark.parametrize(("rows", "told"), [(3, False), (6, True)])
def test_few_classes_are_told_of_in_the_second_half(rows, told):
    found = find_alarms([row(k + 1, classes=(39, 1)) for k in range(rows)], SETTINGS, ended=False)
    assert bool(found) == told
    assert all("98 % of them of class 0" in one and "entropy=8" in one for one in found)


def test_swings_are_told_of_at_the_end():
    rows = [row(k + 1, val_top1=0.9 - 0.1 * (k % 2)) for k in range(6)]
    (found,) = find_alarms(rows, SETTINGS, ended=True)
    assert "80.0 to 90.0 % in the last 3 epochs" in found
    assert not find_alarms(rows, SETTINGS, ended=False)
    assert not find_alarms([row(k + 1, val_top1=0.9) for k in range(6)], SETTINGS, ended=True)

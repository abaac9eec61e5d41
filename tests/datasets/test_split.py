from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from thinet.datasets.split import balanced_subset, stratified_split


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.9])
def test_split_is_a_partition_with_the_fraction_of_each_class(fraction: float) -> None:
    labels = np.random.default_rng(0).choice(4, p=[0.5, 0.3, 0.15, 0.05], size=1000).tolist()
    rest, aside = stratified_split(labels, fraction, seed=3)
    assert sorted(rest + aside) == list(range(1000))
    sizes, taken = Counter(labels), Counter(labels[i] for i in aside)
    for label, size in sizes.items():
        assert abs(taken[label] - fraction * size) <= 0.5


def test_every_class_of_two_or_more_is_on_both_sides_and_a_single_image_is_kept() -> None:
    labels = [0, 0, 1, 2, 2, 2]
    for fraction in (0.01, 0.99):
        rest, aside = stratified_split(labels, fraction, seed=0)
        assert {labels[i] for i in rest} == {0, 1, 2}
        assert {labels[i] for i in aside} == {0, 2}


def test_split_depends_on_the_seed_alone() -> None:
    labels = [0, 1] * 50
    assert stratified_split(labels, 0.3, 1) == stratified_split(labels, 0.3, 1)
    assert stratified_split(labels, 0.3, 1) != stratified_split(labels, 0.3, 2)


def test_images_of_one_class_do_not_move_when_another_class_grows() -> None:
    few = stratified_split([0] * 10 + [1] * 4, 0.5, 1)[1]
    many = stratified_split([0] * 10 + [1] * 40, 0.5, 1)[1]
    assert [i for i in few if i < 10] == [i for i in many if i < 10]


def test_subset_is_balanced_and_classes_take_turns() -> None:
    labels = [0] * 50 + [1] * 5 + [2] * 2
    chosen = balanced_subset(labels, 4, seed=0)
    assert len(set(chosen)) == len(chosen)
    assert [labels[i] for i in chosen] == [0, 1, 2, 0, 1, 2, 0, 1, 0, 1]
    assert balanced_subset(labels, 2, seed=0) == chosen[:6]
    assert balanced_subset(labels, 4, seed=1) != chosen

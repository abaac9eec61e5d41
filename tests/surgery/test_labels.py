"""Label tensors and their union-find."""

from __future__ import annotations

import random

import torch

from thinet.surgery.labels import (
    NONE,
    ZERO,
    LabelSets,
    along,
    among,
    compact,
    pairs,
    spread,
    varying_axes,
    without_repeats,
)


def test_united_labels_have_one_representative_whatever_the_order():
    generator = random.Random(0)
    for _ in range(30):
        sets = LabelSets()
        labels = sets.new(20)
        groups = {k: {k} for k in range(20)}  # the same, kept by hand
        for _ in range(generator.randrange(15)):
            a, b = generator.randrange(20), generator.randrange(20)
            sets.unite(torch.tensor([a]), torch.tensor([b]))
            joined = groups[a] | groups[b]
            groups.update(dict.fromkeys(joined, joined))
        roots = sets.roots(labels).tolist()
        for a in range(20):
            assert roots[a] == min(groups[a])
            for b in range(20):
                assert (roots[a] == roots[b]) == (b in groups[a])


def test_freezing_holds_before_and_after_a_union():
    sets = LabelSets()
    sets.new(6)
    sets.freeze(torch.tensor([4, NONE, ZERO]), "first")
    sets.unite(torch.tensor([1, 3]), torch.tensor([4, 5]))
    assert [sets.why_frozen(k) for k in range(6)] == [None, "first", None, None, "first", None]
    sets.freeze(torch.tensor([5, 1]), "second")
    assert sets.why_frozen(3) == "second"
    assert sets.why_frozen(1) == "first"  # the first reason stays
    sets.unite(torch.tensor([0]), torch.tensor([1]))
    assert sets.why_frozen(0) == "first"


def test_roots_leave_special_labels_alone():
    sets = LabelSets()
    sets.new(2)
    assert sets.roots(torch.tensor([1, NONE, ZERO, 0])).tolist() == [1, NONE, ZERO, 0]
    assert sets.size() == 2


def test_spread_and_along_are_inverse():
    vector = torch.tensor([4, 2, 7])
    labels = spread(vector, 1, torch.Size([2, 3, 5, 5]))
    assert labels.shape == (2, 3, 5, 5)
    assert along(labels, 1).tolist() == [4, 2, 7]
    assert along(labels.contiguous(), 1).tolist() == [4, 2, 7]
    assert along(labels, 2) is None
    assert compact(labels).shape == (1, 3, 1, 1)
    assert varying_axes(labels) == varying_axes(labels.contiguous()) == [1]


def test_along_an_axis_of_one_label_repeats_it():
    labels = torch.tensor(3).expand(1, 4, 2)
    assert along(labels, 1).tolist() == [3, 3, 3, 3]
    assert varying_axes(labels) == []


def test_padding_goes_with_any_label_but_foreign_elements_do_not():
    labels = torch.tensor([[5, ZERO], [6, 6]])
    assert along(labels, 0).tolist() == [5, 6]
    assert along(torch.tensor([[5, NONE], [6, 6]]), 0) is None
    assert along(torch.tensor([[ZERO, ZERO], [6, 6]]), 0).tolist() == [ZERO, 6]


def test_pairs_are_those_that_a_plain_comparison_finds():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        left = torch.randint(ZERO, 3, (5, 2, 3), generator=generator)
        right = torch.randint(ZERO, 4, (5, 2, 3), generator=generator)
        left[1:4], right[1:3] = left[:1], right[:1]  # slices that repeat, as those of tokens do
        flat = torch.stack([left.flatten(), right.flatten()])
        expected = torch.unique(flat[:, flat[0] != flat[1]], dim=1)
        assert torch.equal(pairs(left, right, 4), expected)
        assert torch.equal(torch.unique(without_repeats(left)), torch.unique(left))


def test_pairs_of_empty_and_of_single_labels():
    empty = torch.zeros(0, 3, dtype=torch.int64)
    assert pairs(empty, empty, 4).shape == (2, 0)
    assert pairs(torch.tensor(1), torch.tensor(NONE), 4).tolist() == [[1], [NONE]]


def test_among_is_isin():
    generator = torch.Generator().manual_seed(0)
    for count in (0, 1, 7):
        labels = torch.randint(ZERO, 20, (30,), generator=generator)
        chosen = torch.randint(0, 12, (count,), generator=generator)
        assert torch.equal(among(labels, chosen), torch.isin(labels, chosen))

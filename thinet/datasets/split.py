"""Which images go where: pure functions from labels and a seed to positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from thinet.base.seeding import derive_seed


def stratified_split(
    labels: Sequence[int], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Set aside a fraction of every class.

    A class of two images or more gives at least one and keeps at least one; a class with a single
    image keeps it, because a class that is never trained on cannot be learnt.

    Args:
        labels: One class index per image.
        fraction: Part of each class to set aside, in ``(0, 1)``.
        seed: The same seed gives the same split.

    Returns:
        ``(rest, aside)``: ascending positions into ``labels``, disjoint and together complete.
    """
    rest: list[int] = []
    aside: list[int] = []
    for members in _shuffled_classes(labels, derive_seed(seed, "split")).values():
        count = 0
        if len(members) > 1:
            count = min(max(int(fraction * len(members) + 0.5), 1), len(members) - 1)
        aside += members[:count]
        rest += members[count:]
    return sorted(rest), sorted(aside)


def balanced_subset(labels: Sequence[int], per_class: int, seed: int) -> list[int]:
    """Draw the same number of images from every class.

    The classes take turns in the result, so that a batch of neighbours has about the mixture of
    the whole subset: BatchNorm statistics averaged over single-class batches would underestimate
    the variance. It also makes a smaller subset the beginning of a larger one.

    Args:
        labels: One class index per image.
        per_class: Images per class; a class with fewer gives all it has.
        seed: The same seed gives the same subset.

    Returns:
        Positions into ``labels``, without repetition.
    """
    groups = [
        members[:per_class]
        for members in _shuffled_classes(labels, derive_seed(seed, "subset")).values()
    ]
    longest = max((len(group) for group in groups), default=0)
    return [group[turn] for turn in range(longest) for group in groups if turn < len(group)]


def _shuffled_classes(labels: Sequence[int], seed: int) -> dict[int, list[int]]:
    """Positions per class in ascending class order, each list in a random order of its own."""
    members: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        members.setdefault(int(label), []).append(position)
    shuffled = {}
    for label in sorted(members):
        generator = torch.Generator().manual_seed(derive_seed(seed, label))
        order = torch.randperm(len(members[label]), generator=generator).tolist()
        shuffled[label] = [members[label][i] for i in order]
    return shuffled

"""Channel labels: which filter does an element of an activation come from?

Every filter of every producing layer has a label, a non-negative integer. An activation carries a
tensor of labels of its own shape, on which shape operations act as they do on the activation.
Label tensors are expanded (stride 0) along the axes on which they are constant: they cost little.
"""

from __future__ import annotations

import torch
from torch import Tensor

NONE = -1
"""Label of an element that no filter produced: it can be neither removed nor ignored."""
ZERO = -2
"""Label of an element that is zero whatever the filters are (padding)."""


class LabelSets:
    """Union-find over labels, with the reason why a set may not be removed."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._frozen: dict[int, str] = {}
        self._summed: set[int] = set()
        self._roots: Tensor | None = None  # of every label, until the next change

    def new(self, count: int) -> Tensor:
        """``count`` fresh labels, int64, shape ``(count,)``."""
        self._roots = None
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def size(self) -> int:
        """How many labels there are."""
        return len(self._parent)

    def find(self, label: int) -> int:
        """The representative of the set that ``label`` is in."""
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root

    def unite(self, left: Tensor, right: Tensor, summed: bool = False) -> None:
        """Unite labels pair by pair; both of shape ``(n,)`` and non-negative.

        Args:
            left: Labels.
            right: Labels.
            summed: Whether it is an addition that brings them together (a residual stream).
        """
        self._roots = None
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            low, high = sorted((self.find(a), self.find(b)))
            if low == high:
                continue
            self._parent[high] = low
            if high in self._frozen:
                self._frozen.setdefault(low, self._frozen.pop(high))
            if summed or high in self._summed:
                self._summed.add(low)
                self._summed.discard(high)

    def summed(self) -> frozenset[int]:
        """The representatives of sets that additions have brought together."""
        return frozenset(self._summed)

    def frozen(self) -> dict[int, str]:
        """Why sets may not be removed, by representative."""
        return dict(self._frozen)

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Forbid the removal of every set met in ``labels`` (any shape); the first reason stays."""
        values = torch.unique(without_repeats(labels))
        for label in values[values >= 0].tolist():
            self._frozen.setdefault(self.find(label), reason)

    def why_frozen(self, label: int) -> str | None:
        """Why this label's set may not be removed, or None."""
        return self._frozen.get(self.find(label))

    def roots(self, labels: Tensor) -> Tensor:
        """Representatives of labels of any shape; negative labels stay as they are."""
        if self._roots is None:
            table, known = torch.tensor(self._parent, dtype=torch.int64), None
            while known is None or not torch.equal(table, known):
                table, known = table[table], table
            self._roots = table
        found = labels.clone()
        found[labels >= 0] = self._roots[labels[labels >= 0]]
        return found


def compact(labels: Tensor) -> Tensor:
    """One entry along each expanded axis (the axis stays, with length 1)."""
    for axis, stride in enumerate(labels.stride()):
        if stride == 0 and labels.shape[axis] > 1:
            labels = labels.narrow(axis, 0, 1)
    return labels


def varying_axes(labels: Tensor) -> list[int]:
    """The axes along which ``labels`` are not constant."""
    small = compact(labels)
    return [
        axis
        for axis in range(small.dim())
        if small.shape[axis] > 1 and bool((small != small.narrow(axis, 0, 1)).any())
    ]


def along(labels: Tensor, axis: int) -> Tensor | None:
    """The labels along ``axis`` if the other axes do not matter, else None.

    Elements that are always zero (:data:`ZERO`) go with any label: padding adds nothing.

    Returns:
        int64 labels of shape ``(labels.shape[axis],)``.
    """
    size = labels.shape[axis]
    rows = compact(labels).movedim(axis, 0)
    rows = rows.reshape(rows.shape[0], -1)
    vector = rows.amax(dim=1)
    if not bool(((rows == vector[:, None]) | (rows == ZERO)).all()):
        return None
    return vector.expand(size).contiguous() if vector.numel() == 1 else vector


def spread(vector: Tensor, axis: int, shape: torch.Size) -> Tensor:
    """Labels of an activation of ``shape`` that vary along ``axis`` alone; the inverse of along."""
    view = [1] * len(shape)
    view[axis] = -1
    return vector.view(view).expand(shape)


def without_repeats(labels: Tensor) -> Tensor:
    """Leave out slices equal to the one before them, along every axis.

    One comparison a cell, where sorting the cells of a long sequence would take seconds.
    """
    labels = compact(labels)
    for axis, size in enumerate(labels.shape):
        if size > 1:
            changes = labels.narrow(axis, 1, size - 1) != labels.narrow(axis, 0, size - 1)
            new = torch.ones(size, dtype=torch.bool)
            new[1:] = changes.movedim(axis, 0).reshape(size - 1, -1).any(dim=1)
            labels = labels.index_select(axis, torch.nonzero(new).flatten())
    return labels


def pairs(left: Tensor, right: Tensor, count: int) -> Tensor:
    """The distinct pairs of unequal labels at the same place.

    Args:
        left: Labels below ``count``.
        right: Labels below ``count``, of the same shape.
        count: How many labels there are.

    Returns:
        int64, shape ``(2, pairs)``, sorted.
    """
    base = count - ZERO
    coded = torch.unique(without_repeats((left - ZERO) * base + (right - ZERO)))
    found = torch.stack([coded // base, coded % base]) + ZERO
    return found[:, found[0] != found[1]]


def among(labels: Tensor, chosen: Tensor) -> Tensor:
    """Which of ``labels`` are in ``chosen`` (any order, none negative), as booleans.

    By a table: :func:`torch.isin` sorts both, for each of a network's thousand tensors.
    """
    size = int(chosen.max()) + 1 if chosen.numel() else 0
    table = torch.zeros(size + 1, dtype=torch.bool)  # the last entry stands for all others
    table[chosen] = True
    return table[torch.where((labels >= 0) & (labels < size), labels, size)]

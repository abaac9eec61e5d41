"""Width vectors: one gene for each group of channels, an index into a list of scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thinet.surgery import ChannelGraph

Genes = tuple[int, ...]
"""For each group the index of its scale."""

SCALES = tuple(range(10, 101, 3))
"""Of the paper, in percent: 10, 13, ..., 100 (31 of them)."""


@dataclass(frozen=True)
class Space:
    """What widths there are to choose among.

    Layers that can only be as wide as each other (a residual stream) are one group and have one
    gene, so that they stay tied whatever is done to it.

    Attributes:
        names: The groups, in order of execution.
        units: How many channels each has at full width.
        scales: In percent of the full width, rising to 100; whole numbers, so that truncation
            does not depend on the binary fraction of a float.
    """

    names: tuple[str, ...]
    units: tuple[int, ...]
    scales: tuple[int, ...] = SCALES

    @classmethod
    def of(
        cls, graph: ChannelGraph, names: Sequence[str], scales: Sequence[int] = SCALES
    ) -> Space:
        """The space of some groups of a network."""
        units = tuple(graph.groups[name].units for name in names)
        return cls(tuple(names), units, tuple(scales))

    @property
    def top(self) -> Genes:
        """Full width."""
        return (len(self.scales) - 1,) * len(self.names)

    @property
    def bottom(self) -> Genes:
        """The smallest widths."""
        return (0,) * len(self.names)

    def count(self, group: int, gene: int) -> int:
        """Channels of one group: the full width times the scale, truncated, at least one."""
        return max(1, self.units[group] * self.scales[gene] // 100)

    def counts(self, genes: Genes) -> dict[str, int]:
        """Channels of each group by its name."""
        return {name: self.count(place, gene)
                for place, (name, gene) in enumerate(zip(self.names, genes, strict=True))}  # fmt: skip

    def kept(self, genes: Genes) -> NDArray[np.float64]:
        """The fraction of its channels that each group keeps, as a cost model reads it."""
        widths = [self.count(place, gene) for place, gene in enumerate(genes)]
        return np.array(widths, dtype=np.float64) / np.array(self.units, dtype=np.float64)

    def nearest(self, counts: Mapping[str, int]) -> Genes:
        """The genes whose widths are nearest to these; a group that is not named is whole."""
        found = []
        for place, (name, units) in enumerate(zip(self.names, self.units, strict=True)):
            wanted = counts.get(name, units)
            found.append(min(range(len(self.scales)),
                             key=lambda gene: abs(self.count(place, gene) - wanted)))  # noqa: B023
        return tuple(found)

"""Width vectors: one gene for each group of channels, an index into a list of scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from thinet.base.errors import ThinetError
from thinet.surgery import ChannelGraph

Genes = tuple[int, ...]
"""For each gene the index of its scale."""

SCALES = tuple(range(10, 101, 3))
"""Of the paper, in percent: 10, 13, ..., 100 (31 of them)."""


@dataclass(frozen=True)
class Space:
    """What widths there are to choose among.

    Layers that can only be as wide as each other (a residual stream) are one group and have one
    gene, so that they stay tied whatever is done to it. Several groups may share a gene too.

    Attributes:
        names: The groups, in order of execution.
        units: How many channels each has at full width.
        genes: The place of the gene of each group, from 0.
        scales: In percent of the full width, rising to 100; whole numbers, so that truncation
            does not depend on the binary fraction of a float.
    """

    names: tuple[str, ...]
    units: tuple[int, ...]
    genes: tuple[int, ...]
    scales: tuple[int, ...] = SCALES

    @classmethod
    def of(
        cls, graph: ChannelGraph, names: Sequence[str], scales: Sequence[int] = SCALES,
        tied: Sequence[str] = (),
    ) -> Space:  # fmt: skip
        """The space of some groups of a network.

        Args:
            graph: Its trace.
            names: The groups that may shrink.
            scales: See above.
            tied: Globs of layers: what one of them matches within one module shares a gene, as
                ``layer*.*.conv[12]`` in the blocks of ResNet-50.

        Raises:
            ThinetError: If one of these matches nothing.
        """
        layers = [layer.name for name in names for layer in graph.groups[name].layers]
        for pattern in tied:
            if not any(fnmatchcase(layer, pattern) for layer in layers):
                raise ThinetError(
                    f"tied: {pattern!r} matches none of the layers that may shrink: "
                    f"they are {', '.join(layers[:6])}{' ...' if len(layers) > 6 else ''}."
                )
        places: dict[str, int] = {}
        for name in names:
            places.setdefault(_team(graph, name, tied), len(places))
        genes = tuple(places[_team(graph, name, tied)] for name in names)
        units = tuple(graph.groups[name].units for name in names)
        return cls(tuple(names), units, genes, tuple(scales))

    @property
    def size(self) -> int:
        """How many genes there are."""
        return max(self.genes, default=-1) + 1

    @property
    def top(self) -> Genes:
        """Full width."""
        return (len(self.scales) - 1,) * self.size

    @property
    def bottom(self) -> Genes:
        """The smallest widths."""
        return (0,) * self.size

    def widths(self, genes: Genes) -> list[int]:
        """Channels of each group: the full width times the scale, truncated, at least one."""
        return [max(1, units * self.scales[genes[place]] // 100)
                for units, place in zip(self.units, self.genes, strict=True)]  # fmt: skip

    def counts(self, genes: Genes) -> dict[str, int]:
        """Channels of each group by its name."""
        return dict(zip(self.names, self.widths(genes), strict=True))

    def kept(self, genes: Genes) -> NDArray[np.float64]:
        """The fraction of its channels that each group keeps, as a cost model reads it."""
        widths, units = np.array(self.widths(genes), float), np.array(self.units, float)
        kept: NDArray[np.float64] = widths / units
        return kept


def _team(graph: ChannelGraph, name: str, tied: Sequence[str]) -> str:
    """What groups of one gene have in common: a glob and a module, or their own name."""
    for layer in graph.groups[name].layers:
        for pattern in tied:
            if fnmatchcase(layer.name, pattern):
                return f"{pattern} in {layer.name.rpartition('.')[0]}"
    return name

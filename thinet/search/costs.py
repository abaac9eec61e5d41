"""What widths cost, as a fraction of the full network's, for whatever a target counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from torch import nn

from thinet.metrics import cost_model
from thinet.metrics.latency_table import LatencyTable, Prediction
from thinet.search.budget import CostOf, Window
from thinet.surgery import ChannelGraph
from thinet.widths.space import Genes, Space
from thinet.widths.target import Target


@dataclass(frozen=True)
class Costs:
    """What widths cost.

    Attributes:
        of: The fraction of the full network's that genes leave; never less for a wider group.
        full: What the full network has: FLOPs, parameters, or milliseconds as predicted.
    """

    of: CostOf
    full: float

    def window(self, target: Target, tolerance: float) -> Window:
        """What candidates may cost.

        Args:
            target: The budget.
            tolerance: How far below it they may be, as a fraction of it.

        Raises:
            ThinetError: If the budget is an amount that the full network is below.
        """
        most = target.fraction_of(self.full)
        return Window(most * (1 - tolerance), most)


def cost_of_target(
    target: Target,
    network: nn.Module,
    graph: ChannelGraph,
    space: Space,
    shape: Sequence[int],
    table: LatencyTable | None = None,
) -> Costs:
    """The cost of genes that a target counts.

    Args:
        target: Its kind counts.
        network: The full one.
        graph: Its trace.
        space: The widths to choose among.
        shape: ``(C, H, W)``.
        table: Of latency; needed where that is the kind.

    Raises:
        ThinetError: If the table says nothing of a group.
    """
    if target.kind == "latency":
        assert table is not None  # the caller measures or reads it
        told = Prediction(table, space.names)
        full = told(space.units)

        @cache  # a search asks for the same genes again and again
        def fraction(genes: Genes) -> float:
            return told(space.widths(genes)) / full

        return Costs(fraction, full)
    model = cost_model(network, graph, space.names, target.kind, shape)
    all_of_it = model(np.ones(len(space.names)))

    def cost_of(genes: Genes) -> float:
        return float(model(space.kept(genes)) / all_of_it)

    return Costs(cost_of, all_of_it)


def widths_of(space: Space) -> dict[str, list[int]]:
    """The units that each group may keep, rising, for a latency table."""
    return {
        name: sorted({max(1, units * percent // 100) for percent in space.scales})
        for name, units in zip(space.names, space.units, strict=True)
    }

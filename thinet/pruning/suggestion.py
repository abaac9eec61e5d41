"""From what each layer costs alone to ratios for all of them within a budget."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from thinet.base.messages import say
from thinet.engine.engine import Engine
from thinet.engine.subset import SubsetEvaluation
from thinet.metrics import cost
from thinet.pruning.group import Calibration, prune_groups_
from thinet.pruning.settings import Choosing
from thinet.pruning.statistics import Reference
from thinet.report.sections.sensitivity import Cell, Figures, Trial, Tried
from thinet.run.setup import Setup
from thinet.surgery import ChannelGraph, recalibrate_
from thinet.widths.choose import Request, choose_counts
from thinet.widths.target import Target, Widths

Losses = dict[str, NDArray[np.float64]]
TRIED = 5_000
"""Validation images for the few networks with all groups cut: they decide by small differences."""
FLOOR = 1e-6
"""A divergence in nats that is as good as none."""


def recalibrated_(network: nn.Module, choosing: Choosing, calibration: Calibration) -> bool:
    """Re-estimate BatchNorm statistics as the run asks for; whether there were any."""
    if choosing.recalibrate_bn == "never":
        return False
    return recalibrate_(network, calibration.batches()) > 0


@dataclass(frozen=True)
class Suggestion:
    """What is suggested.

    Attributes:
        ratios: A fraction kept for each group.
        way: How losses were added up.
        trial: The accuracy on validation images and the costs left when all groups are cut to the
            suggestion, and to one ratio within the same budget.
    """

    ratios: dict[str, float]
    way: str
    trial: Trial


@dataclass(frozen=True)
class Trials:
    """How networks with all groups cut are tried.

    Attributes:
        choosing: How filters are chosen, and what replaces them.
        budget: What may be left.
        round_to: Widths become multiples of this.
        most: Corrections that are tried.
        setup: Of the run.
    """

    choosing: Choosing
    budget: Target
    round_to: int
    most: int
    setup: Setup

    def widths_within(
        self,
        network: nn.Module,
        graph: ChannelGraph,
        names: Sequence[str],
        losses: Losses | None = None,
    ) -> dict[str, int]:
        """Units that groups keep within the budget; groups that stay whole are left out.

        Args:
            network: The full network, or its shapes on the ``meta`` device.
            graph: Its trace.
            names: The groups that may shrink.
            losses: Of each group at every width; None for one ratio for all.

        Raises:
            ThinetError: If the budget is out of reach.
        """
        allocation = "uniform" if losses is None else "error"
        request = Request(widths=Widths(self.budget, allocation, self.round_to))
        shape = (3, self.setup.image_size, self.setup.image_size)
        return choose_counts(network, graph, names, request, shape, losses)

    def cut(
        self,
        network: nn.Module,
        graph: ChannelGraph,
        counts: Mapping[str, int],
        calibration: Calibration,
        probe: SubsetEvaluation,
    ) -> Tried:
        """The figures of a copy with all groups cut, as ``method=prune`` would in one shot."""
        choosing, slim = self.choosing, copy.deepcopy(network)
        if choosing.reconstruction.aims_at_original:
            reference = Reference(network)
            groups = [graph.groups[name] for name in counts]
            reference.expect(groups, graph, len(calibration.images))
            calibration = replace(calibration, reference=reference)
        prune_groups_(
            slim, graph, counts, choosing.criterion, choosing.reconstruction, calibration,
            recalibrate=choosing.recalibrate_bn == "each",
        )  # fmt: skip
        recalibrated_(slim, choosing, calibration)
        shape = tuple(self.setup.data.input_shape)
        before, after = cost(network, shape), cost(slim, shape)
        left = {"flops": after.flops / before.flops, "params": after.params / before.params}
        return Tried(**probe.measure(slim), **left)


def suggest(
    trials: Trials,
    engine: Engine,
    network: nn.Module,
    graph: ChannelGraph,
    names: Sequence[str],
    calibration: Calibration,
    probe: SubsetEvaluation,
    full: Figures,
    cells: Sequence[Cell],
) -> Suggestion:
    """Ratios that meet the budget where the measured loss is least.

    Several ways to add up the losses are tried with all groups cut, beside one ratio for all; the
    accuracy on up to 5,000 validation images tells which it is.

    Args:
        trials: How networks are tried.
        engine: Of the run.
        network: The full network.
        graph: Its trace.
        names: The groups that were measured.
        calibration: The images of the statistics.
        probe: The images of the accuracies.
        full: The figures of the full network on them.
        cells: All measurements.
    """
    chance = trials.setup.data.num_classes or 2
    units = {name: graph.groups[name].units for name in names}
    ways = loss_curves(cells, units, probe.images, full, chance)
    probe = _larger(trials.choosing, engine, network, calibration, probe)

    def tell(way: str, widths: dict[str, int]) -> _Found:
        figures = trials.cut(network, graph, widths, calibration, probe)
        say(
            f"suggestion for {trials.budget}, {way}: all layers cut, validation top-1 "
            f"{100 * figures.top1:.2f} %, divergence {figures.divergence:.4f}"
        )
        return _Found(widths, figures)

    def widths_by(losses: Losses | None) -> dict[str, int]:
        return engine.decide(lambda: trials.widths_within(network, graph, names, losses))

    uniform = tell("one ratio", widths_by(None))
    tried = {way: tell(f"by {way}", widths_by(losses)) for way, losses in ways.items()}
    way = min(tried, key=lambda one: tried[one].badness)
    losses, best = ways[way], tried[way]
    for title, weights in directions(names)[: trials.most]:
        other = {name: weights.get(name, 1.0) * losses[name] for name in names}
        widths = widths_by(other)
        if widths != best.widths:
            found = tell(f"by {way}, {title}", widths)
            if found.badness < best.badness:
                losses, best = other, found
    chosen = min(best, uniform, key=lambda one: one.badness)
    ratios = {
        name: short_ratio(chosen.widths.get(name, units[name]), units[name]) for name in names
    }
    return Suggestion(ratios, way, Trial(uniform.figures, chosen.figures))


@dataclass(frozen=True)
class _Found:
    """A network with all groups cut."""

    widths: dict[str, int]
    figures: Tried

    @property
    def badness(self) -> tuple[float, float]:
        """Fewer images right is worse; among equals, further from the full network.

        Not the divergence first: a cut network is less sure of everything, and of two such networks
        the one that is right more often can be the less sure.
        """
        return -self.figures.top1, self.figures.divergence


def _larger(
    choosing: Choosing,
    engine: Engine,
    network: nn.Module,
    calibration: Calibration,
    probe: SubsetEvaluation,
) -> SubsetEvaluation:
    """The same kind of probe with more images."""
    larger = SubsetEvaluation(engine, max(TRIED, probe.images))
    full = copy.deepcopy(network)
    recalibrated_(full, choosing, calibration)
    larger.set_reference(full)
    return larger


def loss_curves(
    cells: Sequence[Cell], units: Mapping[str, int], images: int, full: Figures, chance: int
) -> dict[str, Losses]:
    """The loss of each group at every width, by each way to add up what the layers lose alone.

    None is right, since layers cut together disturb each other: divergences add up if disturbances
    are small and independent, their roots if all push the same way, errors if none makes another's
    worse. Which holds depends on network and reconstruction, so all of them are tried.

    Args:
        cells: All measurements.
        units: Of each group.
        images: That they were measured on.
        full: The figures of the full network.
        chance: Classes: what a network that knows nothing guesses among.
    """
    ways: dict[str, tuple[Callable[[Cell], float], float]] = {
        "divergence": (lambda cell: cell.divergence, math.log(chance)),
        "root of divergence": (
            lambda cell: math.sqrt(cell.divergence),
            math.sqrt(math.log(chance)),
        ),
        # Half an image stands for what so few images cannot tell from nothing.
        "errors": (lambda cell: max(0.0, full.top1 - cell.top1) + 0.5 / images, 1 - 1 / chance),
    }
    of = {name: [cell for cell in cells if cell.layer == name] for name in units}
    return {
        way: {
            name: loss_curve(units[name], {cell.kept: loss(cell) for cell in of[name]}, guessing)
            for name in units
        }
        for way, (loss, guessing) in ways.items()
    }


def directions(names: Sequence[str]) -> list[tuple[str, dict[str, float]]]:
    """How losses may have to be weighted when all layers are cut: tried one after the other.

    First the whole depth leans towards its beginning or its end, since an early error goes through
    all later layers; then single layers count for more or less, those in the middle last.
    """
    last = max(len(names) - 1, 1)
    lean = {name: 2 ** (1 - 2 * place / last) for place, name in enumerate(names)}
    found = [("early layers count more", lean),
             ("late layers count more", {name: 1 / one for name, one in lean.items()})]  # fmt: skip
    for name in names:
        found += [(f"{name} counts twice", {name: 2.0}), (f"{name} counts half", {name: 0.5})]
    return found


def short_ratio(count: int, units: int) -> float:
    """The shortest decimal fraction that keeps ``count`` of ``units``."""
    for digits in range(1, 12):
        ratio: float = math.ceil(count / units * 10**digits - 1e-9) / 10**digits
        if math.floor(units * ratio + 1e-9) == count:
            return ratio
    return count / units


def loss_curve(units: int, measured: Mapping[int, float], guessing: float) -> NDArray[np.float64]:
    """The loss of one group at every width, from that at a few.

    Args:
        units: How many units the group has.
        measured: The loss by number of kept units.
        guessing: The loss of a network that knows nothing, for when nothing is kept.

    Returns:
        ``(units + 1,)``, entry n for n kept units. It never falls as fewer are kept, whatever the
        noise of the measurements; between two of them its logarithm is interpolated, since losses
        grow by about a factor for each equal step of the width.
    """
    counts = sorted(count for count in measured if 0 < count < units)
    falling = np.minimum.accumulate([measured[count] for count in counts])
    heights = np.log(np.maximum([max(guessing, *falling[:1]), *falling], FLOOR))
    places = np.arange(units + 1)
    curve: NDArray[np.float64] = np.exp(np.interp(places, [0, *counts], heights))
    last = counts[-1] if counts else 0
    curve[last:] = np.interp(places[last:], [last, units], [curve[last], 0.0])
    return curve

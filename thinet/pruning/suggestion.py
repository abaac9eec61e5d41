"""From what each layer costs alone to ratios for all of them within a budget."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from thinet.app.checks import read_budget
from thinet.base.messages import say
from thinet.engine.subset import SubsetEvaluation
from thinet.metrics import cost
from thinet.pruning.group import Calibration, prune_group_
from thinet.pruning.reconstruction import recalibrate_
from thinet.pruning.statistics import Reference
from thinet.run.session import Run
from thinet.run.setup import Job
from thinet.surgery import ChannelGraph
from thinet.widths.choose import Request, choose_counts
from thinet.widths.target import Target, Widths

Losses = dict[str, NDArray[np.float64]]
TRIED = 5_000
"""Validation images for the few networks with all groups cut: they decide by small differences."""
FLOOR = 1e-6
"""A divergence in nats that is as good as none."""


def budget(job: Job) -> Target:
    """What the suggestion may leave."""
    return read_budget(job.config["method"]["budget"])


def recalibrated_(network: nn.Module, job: Job, calibration: Calibration) -> bool:
    """Re-estimate BatchNorm statistics as the run asks for; whether there were any."""
    if job.recalibrate_bn == "never":
        return False
    return recalibrate_(network, calibration.batches()) > 0


def suggest(
    run: Run,
    network: nn.Module,
    graph: ChannelGraph,
    names: Sequence[str],
    calibration: Calibration,
    probe: SubsetEvaluation,
    full: Mapping[str, float],
) -> dict[str, Any]:
    """Ratios that meet the budget where the measured loss is least.

    Several ways to add up the losses are tried with all groups cut, beside one ratio for all; the
    accuracy on up to 5,000 validation images tells which it is.

    Args:
        run: The run, all its cells measured.
        network: The full network.
        graph: Its trace.
        names: The groups that were measured.
        calibration: The images of the statistics.
        probe: The images of the accuracies.
        full: The figures of the full network on them.

    Returns:
        ``budget``; ``suggestion``, a ratio for each group; ``way``, how it was found; and
        ``trial``, the accuracy on validation images and the FLOPs left when all groups are cut to
        the suggestion, and to one ratio within the same budget.
    """

    def tell(way: str, widths: dict[str, int]) -> tuple[dict[str, int], dict[str, float]]:
        figures = _try(run, network, graph, widths, calibration, probe)
        say(
            f"suggestion for {budget(run.job)}, {way}: all layers cut, validation top-1 "
            f"{100 * figures['top1']:.2f} %, divergence {figures['divergence']:.4f}"
        )
        return widths, figures

    def widths_by(losses: Losses | None) -> dict[str, int]:
        return run.engine.decide(lambda: widths_within(run.job, network, graph, names, losses))

    ways = loss_curves(run, graph, names, probe.images, full)
    probe = _larger(run, network, calibration, probe)
    uniform = tell("one ratio", widths_by(None))
    tried = {way: tell(f"by {way}", widths_by(losses)) for way, losses in ways.items()}
    way = min(tried, key=lambda one: _badness(tried[one]))
    losses, best = ways[way], tried[way]
    for title, weights in directions(names)[: run.job.config["method"]["trials"]]:
        other = {name: weights.get(name, 1.0) * losses[name] for name in names}
        widths = widths_by(other)
        if widths != best[0]:
            found = tell(f"by {way}, {title}", widths)
            if _badness(found) < _badness(best):
                losses, best = other, found
    chosen, figures = min(best, uniform, key=_badness)
    units = {name: graph.groups[name].units for name in names}
    return {
        "budget": str(budget(run.job)),
        "suggestion": {
            name: short_ratio(chosen.get(name, units[name]), units[name]) for name in names
        },
        "way": way,
        "trial": {"uniform": uniform[1], "suggestion": figures},
    }


def _larger(
    run: Run, network: nn.Module, calibration: Calibration, probe: SubsetEvaluation
) -> SubsetEvaluation:
    """The same kind of probe with more images."""
    larger = SubsetEvaluation(run.engine, max(TRIED, probe.images))
    full = copy.deepcopy(network)
    recalibrated_(full, run.job, calibration)
    larger.set_reference(full)
    return larger


def _badness(tried: tuple[dict[str, int], dict[str, float]]) -> tuple[float, float]:
    """Fewer images right is worse; among equals, further from the full network.

    Not the divergence first: a cut network is less sure of everything, and of two such networks
    the one that is right more often can be the less sure.
    """
    return -tried[1]["top1"], tried[1]["divergence"]


def loss_curves(
    run: Run,
    graph: ChannelGraph,
    names: Sequence[str],
    images: int,
    full: Mapping[str, float],
) -> dict[str, Losses]:
    """The loss of each group at every width, by each way to add up what the layers lose alone.

    None is right, since layers cut together disturb each other: divergences add up if disturbances
    are small and independent, their roots if all push the same way, errors if none makes another's
    worse. Which holds depends on network and reconstruction, so all of them are tried.
    """
    chance = run.job.data.num_classes or 2
    ways: dict[str, tuple[Callable[[dict[str, Any]], float], float]] = {
        "divergence": (lambda cell: cell["divergence"], math.log(chance)),
        "root of divergence": (
            lambda cell: math.sqrt(cell["divergence"]),
            math.sqrt(math.log(chance)),
        ),
        # Half an image stands for what so few images cannot tell from nothing.
        "errors": (
            lambda cell: max(0.0, full["top1"] - cell["top1"]) + 0.5 / images,
            1 - 1 / chance,
        ),
    }
    cells = {name: [one for one in run.state.cells if one["layer"] == name] for name in names}
    return {
        way: {
            name: loss_curve(
                graph.groups[name].units, {one["kept"]: loss(one) for one in cells[name]}, guessing
            )
            for name in names
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


def widths_within(
    job: Job,
    network: nn.Module,
    graph: ChannelGraph,
    names: Sequence[str],
    losses: Mapping[str, NDArray[np.float64]] | None = None,
) -> dict[str, int]:
    """Units that groups keep within the budget; groups that stay whole are left out.

    Args:
        job: The run.
        network: The full network, or its shapes on the ``meta`` device.
        graph: Its trace.
        names: The groups that may shrink.
        losses: Of each group at every width; None for one ratio for all.

    Raises:
        ThinetError: If the budget is out of reach.
    """
    allocation = "uniform" if losses is None else "error"
    widths = Widths(budget(job), allocation, job.request.widths.round_to)
    shape = (3, job.image_size, job.image_size)
    return choose_counts(network, graph, names, Request(widths=widths), shape, losses)


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


def _try(
    run: Run,
    network: nn.Module,
    graph: ChannelGraph,
    counts: Mapping[str, int],
    calibration: Calibration,
    probe: SubsetEvaluation,
) -> dict[str, float]:
    """The figures of a copy in which all groups are cut, as ``method=prune`` would in one shot."""
    job, slim = run.job, copy.deepcopy(network)
    if job.reconstruction.aims_at_original:
        reference = Reference(network)
        reference.expect([graph.groups[name] for name in counts], graph, len(calibration.images))
        calibration = replace(calibration, reference=reference)
    for name, count in counts.items():
        _, graph = prune_group_(
            slim, graph, name, count, job.criterion, job.reconstruction, calibration,
            recalibrate=job.recalibrate_bn == "each",
        )  # fmt: skip
    recalibrated_(slim, job, calibration)
    shape = tuple(job.data.input_shape)
    before, after = cost(network, shape), cost(slim, shape)
    return {
        **probe.measure(slim),
        "flops": after.flops / before.flops,
        "params": after.params / before.params,
    }

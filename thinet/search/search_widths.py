"""``thinet.search_widths``: how wide each layer of any network should be, for a budget."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thinet.base.errors import ThinetError
from thinet.base.seeding import derive_seed
from thinet.base.values import flag, number, shown, whole
from thinet.metrics import LatencyTable, given_table, kept_table, measure_latency
from thinet.search.budget import check_reachable
from thinet.search.costs import cost_of_target, widths_of
from thinet.search.evolution import Problem, next_generation, uniform
from thinet.search.fitness import FEWEST, judge, standard_error
from thinet.search.hypernet import PruningNet
from thinet.search.memory import check_memory
from thinet.search.settings import Course, Evolution, Making
from thinet.search.training import Tell, train_
from thinet.surgery import ChannelGraph, check_network, trace, without_autocast
from thinet.widths.choose import Request, choose_groups
from thinet.widths.space import Genes, Space
from thinet.widths.target import Target


@dataclass(frozen=True)
class Judged:
    """A candidate.

    Attributes:
        genes: Its widths.
        generation: In which it was judged.
        error: Top-1 on the validation images, in [0, 1].
        cost: The fraction of the network's that is left.
    """

    genes: Genes
    generation: int
    error: float
    cost: float


@dataclass(frozen=True)
class FoundWidths:
    """What a search has found.

    Attributes:
        ratio: For each group of layers, by the name of the first, the fraction of its channels
            that is kept: give it to ``thinet.prune(..., ratio=found.ratio, layers="all")``.
        counts: The same in channels.
        error: Of the best candidate, with generated weights: it ranks, no accuracy to expect.
        cost: The fraction of the network's that is left.
        uniform: Of one ratio for all groups within the same budget, judged the same way.
        judged: Every candidate, in order.
        standard_error: Of these errors, for as many validation images as there were, at most.
    """

    ratio: dict[str, float]
    counts: dict[str, int]
    error: float
    cost: float
    uniform: Judged | None
    judged: tuple[Judged, ...]
    standard_error: float


@without_autocast
def search_widths(
    network: nn.Module,
    train: Iterable[Any],
    validation: Iterable[Any],
    target: str | Target = "flops:0.5",
    *,
    layers: str | Sequence[str] = "all",
    evolution: Evolution | None = None,
    making: Making | None = None,
    course: Course | None = None,
    table: LatencyTable | str | Path | None = None,
    tolerance: float = 0.05,
    recalibration: int = 20,
    seed: int = 0,
    progress: bool = False,
) -> FoundWidths:
    """Search how many channels each group of layers should have.

    One hypernetwork is trained that makes weights for any widths; an evolutionary search then ranks
    widths within the budget by the error of the generated networks on images that nothing was
    trained on. Which channels stay is another question: train the widths from scratch, as the
    paper, or let :func:`thinet.prune` choose.

    Source: Liu et al., MetaPruning, ICCV 2019.

    Args:
        network: Any classifier; left as it was. Its weights do not matter.
        train: Batches ``(images, labels)``, a list or a ``DataLoader``: gone through once an epoch.
        validation: As above, held out of the training images, *not* test images: these would be
            chosen on.
        target: ``"flops:0.5"`` or ``"params:0.4"``, the fraction of the network's that may be left,
            or an amount, such as ``"flops:150M"`` or ``"params:1.2M"``. ``"latency:0.6"`` or
            ``"latency:3ms"`` are of one image on the network's device, read off a table.
        layers: Which layers' widths: see :func:`thinet.prune`.
        evolution: How the search goes; None for the paper's 20 generations of 50.
        making: How weights are made; None for the paper's two layers with 32 units between.
        course: How the hypernetwork is trained.
        table: Of latency, its file, or a folder in which it is kept for the next time: see
            :func:`thinet.metrics.measure_latency`. None to measure one, if latency counts.
        tolerance: How far below the target candidates may be, as a fraction of it.
        recalibration: Batches of ``train`` that BatchNorm statistics are estimated on.
        seed: The same seed finds the same widths.
        progress: Print how far it is.

    Raises:
        ThinetError: If the request makes no sense, no layer can be narrowed, the budget is out of
            reach, or the hypernetwork does not fit into memory.

    Example:
        >>> import thinet, torch
        >>> from thinet.search import Course, Evolution
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
        ...     torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 2))
        >>> batches = [(torch.randn(32, 3, 8, 8), torch.randint(2, (32,)))]
        >>> found = thinet.search_widths(
        ...     net, batches, batches, course=Course(epochs=1), evolution=Evolution(generations=2))
        >>> found.cost <= 0.5
        True
    """
    check_network(network)
    images = _first(train, "train")
    count = _count(validation)
    steps = whole("recalibration", recalibration, "20")
    wanted = target if isinstance(target, Target) else Target.parse(target)
    number("tolerance", tolerance, "0.05")
    whole("seed", seed, "0", least=0)
    tell: Tell | None = partial(print, file=sys.stderr) if flag("progress", progress) else None
    device = next(network.parameters()).device
    small = images[:2].to(device)
    graph = trace(network, small[:1])
    names, _ = choose_groups(network, graph, Request(layers=layers), small)
    space = Space.of(graph, names)
    shape = tuple(images.shape[1:])
    known = _table(network, graph, space, shape, table, tell) if wanted.kind == "latency" else None
    costs = cost_of_target(wanted, network, graph, space, shape, known)
    problem = Problem(space, costs.of, costs.window(wanted, tolerance))
    check_reachable(space, problem.cost_of, problem.window, str(wanted))
    how, made = evolution or Evolution(), making or Making()
    check_memory(network, graph, space, made, device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "search"))
        net = PruningNet(network, graph, space, made).to(device)
        train_(net, train, course or Course(), seed, tell)
    calibration = [one.to(device) for one, _ in _taken(train, steps)]
    judging = partial(judge, net, images=calibration, validation=validation)
    found = _evolve(how, problem, judging, seed, tell)
    best = min(found, key=lambda one: one.error)
    even = uniform(problem)
    widest = None if even is None else Judged(even, -1, judging(genes=even), problem.cost_of(even))
    counts = space.counts(best.genes)
    ratio = {name: count / graph.groups[name].units for name, count in counts.items()}
    return FoundWidths(
        ratio, counts, best.error, best.cost, widest, tuple(found), standard_error(count)
    )


def _evolve(
    how: Evolution, problem: Problem, judging: Any, seed: int, tell: Tell | None
) -> list[Judged]:
    """Generation after generation; ends early where the budget holds nothing new.

    Raises:
        ThinetError: If there is no candidate at all.
    """
    found: list[Judged] = []
    for generation in range(how.generations):
        errors = {one.genes: one.error for one in found}
        candidates = next_generation(how, problem, errors, generation, seed)
        found += [
            Judged(genes, generation, judging(genes=genes), problem.cost_of(genes))
            for genes in candidates
        ]
        if not found:
            raise ThinetError(
                "no widths are within the budget, whose window is too narrow for this network: "
                "pass a larger tolerance, for example tolerance=0.1."
            )
        if not candidates:
            break
        if tell is not None:
            best = min(one.error for one in found)
            tell(f"search: generation {generation + 1} of {how.generations}, error {best:.4f}")
    return found


def _table(
    network: nn.Module,
    graph: ChannelGraph,
    space: Space,
    shape: tuple[int, ...],
    given: LatencyTable | str | Path | None,
    tell: Tell | None,
) -> LatencyTable:
    """A table of latency, as it was given or measured now."""
    if isinstance(given, LatencyTable):
        return given
    widths = widths_of(space)
    if given is not None and Path(given).is_dir():
        return kept_table(Path(given), network, graph, widths, shape, tell=tell)
    if given is not None:
        return given_table(given, network, widths, shape)
    return measure_latency(network, widths, shape, graph=graph, tell=tell)


def _taken(batches: Iterable[Any], count: int) -> list[tuple[Tensor, Tensor]]:
    return [batch for batch, _ in zip(batches, range(count), strict=False)]


def _first(batches: Iterable[Any], name: str) -> Tensor:
    """The images of the first batch.

    Raises:
        ThinetError: If there are none, or batches can be gone through but once.
    """
    if iter(batches) is batches:
        raise ThinetError(
            f"{name} can be gone through only once, and every epoch needs it again: pass a list or "
            "a DataLoader."
        )
    batch: Any = next(iter(batches), None)
    pair = isinstance(batch, (list, tuple)) and len(batch) == 2
    if not pair or not all(isinstance(one, Tensor) for one in batch) or batch[0].dim() != 4:
        raise ThinetError(
            f"{name} holds {shown(batch)} where pairs of images (N, C, H, W) and labels (N,) are "
            "expected: pass a DataLoader or a list of those."
        )
    images: Tensor = batch[0]
    return images


def _count(validation: Iterable[Any]) -> int:
    """How many images there are to rank by.

    Raises:
        ThinetError: If they are too few.
    """
    _first(validation, "validation")
    count = sum(len(labels) for _, labels in validation)
    if count < FEWEST:
        raise ThinetError(
            f"validation holds {count} images, too few to rank widths by (a standard error of up "
            f"to {100 * standard_error(count):.0f} points): pass at least {FEWEST}, better "
            "thousands."
        )
    return count

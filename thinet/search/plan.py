"""What a search will do, found on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from thinet.base.errors import ThinetError
from thinet.base.messages import say
from thinet.base.seeding import derive_seed
from thinet.metrics import Cost, LatencyTable, cost
from thinet.search.budget import CostOf, check_reachable
from thinet.search.costs import Costs, cost_of_target
from thinet.search.evolution import Problem, next_generation
from thinet.search.front import next_on_front
from thinet.search.settings import NSGA2, Evolution, Searching
from thinet.surgery import ChannelGraph, trace
from thinet.training.proxy import Task
from thinet.widths.choose import Request, choose_groups
from thinet.widths.space import Genes, Space
from thinet.widths.target import Target


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be searched.

    Attributes:
        space: The widths to choose among.
        problem: These, what they cost, and the budget; None until a latency table is there.
        flops: What they cost in FLOPs, as a fraction.
        params: In parameters.
        full: Cost of the full network.
        skipped: Layers that stay whole, and why.
        hypernet: Parameters of what is trained for the proxy.
    """

    space: Space
    problem: Problem | None
    flops: CostOf
    params: CostOf
    full: Cost
    skipped: dict[str, str]
    hypernet: int = 0


def make_task(
    network: nn.Module, images: Tensor, layers: str | Sequence[str], how: Searching,
    paper: Sequence[str] = (),
) -> tuple[Task, dict[str, str]]:  # fmt: skip
    """Trace a network and lay out its widths.

    Args:
        network: With or without values.
        images: At least one, where the network is.
        layers: Which groups may shrink.
        how: Scales and ties.
        paper: What ``layers=paper`` stands for.

    Returns:
        What is searched in, and the layers that stay whole with the reason.
    """
    graph = trace(network, images[:1])
    names, skipped = choose_groups(network, graph, Request(layers=layers, paper=paper), images)
    space = Space.of(graph, names, how.scales, how.tied)
    return Task(network, graph, space, tuple(images.shape[1:])), skipped


def make_plan(task: Task, skipped: dict[str, str], target: Target, how: Searching) -> Plan:
    """Lay out the budget, as far as it can be done on paper.

    Raises:
        ThinetError: If it is out of reach.
    """
    kinds = ("flops", "params")
    costs = {kind: cost_of_target(Target(kind, 0.5), *_of(task)) for kind in kinds}
    problem = _problem(task, costs[target.kind], target, how) if target.kind in kinds else None
    full = cost(task.network, task.shape)
    return Plan(task.space, problem, costs["flops"].of, costs["params"].of, full, skipped)


def make_problem(
    task: Task, target: Target, how: Searching, table: LatencyTable | None = None
) -> Problem:
    """Widths, what they cost, and the budget.

    Raises:
        ThinetError: If it is out of reach.
    """
    return _problem(task, cost_of_target(target, *_of(task), table), target, how)


def _problem(task: Task, costs: Costs, target: Target, how: Searching) -> Problem:
    window = costs.window(target, how.tolerance)
    check_reachable(task.space, costs.of, window, str(target))
    return Problem(task.space, costs.of, window)


def _of(task: Task) -> tuple[nn.Module, ChannelGraph, Space, tuple[int, ...]]:
    return task.network, task.graph, task.space, task.shape


def propose(
    how: Evolution, searching: Searching, problem: Problem, judged: Mapping[Genes, float],
    generation: int, seed: int,
) -> list[Genes]:  # fmt: skip
    """The candidates of a generation, by the algorithm that was asked for and the run's seed."""
    seed = derive_seed(seed, "search")
    if searching.algorithm == NSGA2:
        return next_on_front(how, problem, judged, generation, seed)
    return next_generation(how, problem, judged, generation, seed)


def check_first(how: Evolution, searching: Searching, problem: Problem, seed: int) -> None:
    """Refuse a budget in whose window no widths are found.

    Raises:
        ThinetError: If there are none.
    """
    if not propose(how, searching, problem, {}, 0, seed):
        raise none_within(searching)


def none_within(searching: Searching) -> ThinetError:
    """What is said where no widths are within the budget."""
    tolerance = min(2 * searching.tolerance, 0.9)
    return ThinetError(
        "no widths are within the budget, whose window is too narrow for this network: type "
        f"search.tolerance={tolerance:g}, or finer search.scales."
    )


def show_plan(plan: Plan, target: Target, proxy: str, how: Evolution) -> None:
    """Print it."""
    space = plan.space
    say(
        f"search: {space.size} widths of {len(space.names)} groups of layers, "
        f"{len(space.scales)} scales each from {space.scales[0]} to {space.scales[-1]} %; "
        f"{how.generations} generations of {how.population} candidates, judged by proxy={proxy}"
    )
    if plan.problem is None:
        within = "by a latency table that is measured first"
    else:
        window = plan.problem.window
        within = f"candidates from {100 * window.low:.1f} to {100 * window.high:.1f} %"
    say(
        f"budget: {target}, {within} of {plan.full.flops / 1e6:,.2f} MFLOPs and "
        f"{plan.full.params:,} parameters"
    )
    if plan.hypernet:
        say(f"hypernetwork: {plan.hypernet:,} parameters")
    for layer, reason in plan.skipped.items():
        say(f"{layer} stays whole: {reason}")

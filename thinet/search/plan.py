"""What a search will do, found on paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from thinet.base.errors import ThinetError
from thinet.base.messages import say
from thinet.metrics import Cost, cost
from thinet.metrics.cost_model import CostModel, cost_model
from thinet.search.budget import CostOf, Window, check_reachable
from thinet.search.evolution import Problem
from thinet.search.settings import Evolution, Searching
from thinet.surgery import trace
from thinet.training.proxy import Task
from thinet.widths.choose import Request, choose_groups
from thinet.widths.space import Genes, Space
from thinet.widths.target import Target


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be searched.

    Attributes:
        problem: Widths, what they cost, and the budget.
        flops: What they cost in FLOPs, as a fraction.
        params: In parameters.
        full: Cost of the full network.
        skipped: Layers that stay whole, and why.
        hypernet: Parameters of what is trained for the proxy.
    """

    problem: Problem
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
    """Lay out the budget.

    Raises:
        ThinetError: If it is out of reach.
    """
    full = cost(task.network, task.shape)
    flops, params = (fraction_of(task, kind) for kind in ("flops", "params"))
    most = target.fraction_of(full.params if target.kind == "params" else full.flops)
    window = Window(most * (1 - how.tolerance), most)
    problem = Problem(task.space, params if target.kind == "params" else flops, window)
    check_reachable(task.space, problem.cost_of, window, str(target))
    return Plan(problem, flops, params, full, skipped)


def fraction_of(task: Task, kind: str) -> CostOf:
    """What widths cost, as a fraction of the full network's FLOPs or parameters."""
    space = task.space
    model: CostModel = cost_model(task.network, task.graph, space.names, kind, task.shape)
    full = model(space.kept(space.top))

    def cost_of(genes: Genes) -> float:
        return float(model(space.kept(genes)) / full)

    return cost_of


def uniform(problem: Problem) -> Genes | None:
    """The widest one scale for all groups that is not above the budget."""
    space = problem.space
    even = [(gene,) * space.size for gene in range(len(space.scales))]
    below = [genes for genes in even if problem.cost_of(genes) <= problem.window.high]
    return below[-1] if below else None


def check_first(propose: Callable[[], Sequence[Genes]], tolerance: float) -> None:
    """Refuse a budget in whose window no widths are found.

    Raises:
        ThinetError: If there are none.
    """
    if not propose():
        raise ThinetError(
            "no widths are within the budget, whose window is too narrow for this network: type "
            f"search.tolerance={min(2 * tolerance, 0.9):g}, or finer search.scales."
        )


def show_plan(plan: Plan, target: Target, proxy: str, how: Evolution) -> None:
    """Print it."""
    space, window = plan.problem.space, plan.problem.window
    say(
        f"search: {space.size} widths of {len(space.names)} groups of layers, "
        f"{len(space.scales)} scales each from {space.scales[0]} to {space.scales[-1]} %; "
        f"{how.generations} generations of {how.population} candidates, judged by proxy={proxy}"
    )
    say(
        f"budget: {target}, candidates from {100 * window.low:.1f} to {100 * window.high:.1f} % of "
        f"{plan.full.flops / 1e6:,.2f} MFLOPs and {plan.full.params:,} "
        "parameters"
    )
    if plan.hypernet:
        say(f"hypernetwork: {plan.hypernet:,} parameters")
    for layer, reason in plan.skipped.items():
        say(f"{layer} stays whole: {reason}")

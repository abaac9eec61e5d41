"""The plan of a run: which layers keep how many filters, and what that will cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from thinet.metrics import Cost, LayerCost, cost, layer_costs
from thinet.pruning.criteria import Candidates
from thinet.pruning.settings import Choosing, Finetuning
from thinet.pruning.stages import LayerPlace, Stage, make_stages
from thinet.report.sections.pruning.plan import PlanRow, print_plan
from thinet.run.setup import Setup
from thinet.surgery import ChannelGraph, check_weights, remove_, shared_copy, trace
from thinet.training.source import on_paper
from thinet.widths.choose import Request, check_cut, choose_counts, choose_groups


@dataclass(frozen=True)
class Plan:
    """What will be cut, found without data or arithmetic.

    Attributes:
        stages: The stages, in order.
        rows: The layers to cut.
        before: Cost of the network that the run begins with.
        after: Cost of the network in the end.
        skipped: Layers met by a glob that cannot be pruned, and why.
    """

    stages: tuple[Stage, ...]
    rows: tuple[PlanRow, ...]
    before: Cost
    after: Cost
    skipped: dict[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """Kept units of each group."""
        return {name: count for stage in self.stages for name, count in stage.counts.items()}


def needs_network(request: Request) -> bool:
    """Whether the widths can only be found with the trained network and its data at hand."""
    widths = request.widths
    measured = widths.target is not None and widths.target.kind == "latency"
    return measured or widths.allocation == "error"


def check_budget(setup: Setup, request: Request) -> None:
    """Refuse an amount that the full network is below, where widths are found only later.

    Args:
        setup: Of the run.
        request: Its budget; a latency is not known on paper.

    Raises:
        ThinetError: With what the network has.
    """
    target = request.widths.target
    if target is not None and target.kind != "latency":
        network, _ = on_paper(setup)
        full = cost(network, (3, setup.image_size, setup.image_size))
        target.fraction_of(full.params if target.kind == "params" else full.flops)


def make_plan(
    setup: Setup,
    request: Request,
    schedule: str,
    finetuning: Finetuning,
    choosing: Choosing | None = None,
    counts: Mapping[str, int] | None = None,
) -> Plan:
    """Plan a run on a network without data (``meta`` device).

    Args:
        setup: Of the run.
        request: Layers, ratios, budget.
        schedule: See :func:`thinet.pruning.stages.make_stages`.
        finetuning: Between the cuts.
        choosing: How filters are chosen, which may refuse a group; None if they are not.
        counts: Kept units of each group, if they have been found already.

    Raises:
        ThinetError: If layers, ratios or target make no sense for this network.
    """
    shape = (3, setup.image_size, setup.image_size)
    network, images = on_paper(setup)
    graph = trace(network, images[:1])
    names, skipped = choose_groups(network, graph, request, images)
    if counts is None:
        counts = choose_counts(network, graph, names, request, shape)
    if choosing is not None:
        check_statistics(network, graph, choosing, counts)
    keep = {name: range(count) for name, count in counts.items()}
    slim = remove_(shared_copy(network), graph, keep)
    places = [_place(network, graph, name) for name in counts]
    return Plan(
        stages=tuple(make_stages(schedule, places, counts, finetuning)),
        rows=tuple(_rows(network, slim, graph, counts, shape)),
        before=cost(network, shape),
        after=cost(slim, shape),
        skipped=skipped,
    )


def check_statistics(
    network: nn.Module, graph: ChannelGraph, choosing: Choosing, names: Iterable[str]
) -> None:
    """Let criterion, statistics and reconstruction refuse a group before any long work.

    Raises:
        ThinetError: By the first that refuses.
    """
    for name in names:
        group = graph.groups[name]
        choosing.criterion.check(Candidates.of(network, group))
        with torch.device("meta"):
            for kind in {*choosing.criterion.needs, *choosing.reconstruction.needs}:
                kind.for_group(group, choosing.sampling, images=1_000_000)


def show_plan(plan: Plan) -> None:
    """Print it: widths, costs, and what is left whole and why."""
    print_plan(plan.rows, plan.before, plan.after, plan.skipped)


def _place(network: nn.Module, graph: ChannelGraph, name: str) -> LayerPlace:
    parent = network.get_submodule(name.rpartition(".")[0])
    in_sequence = isinstance(parent, nn.Sequential) or parent is network
    return LayerPlace(name, in_sequence, graph.groups[name].layers[0].output_size)


def _rows(
    network: nn.Module,
    slim: nn.Module,
    graph: ChannelGraph,
    counts: Mapping[str, int],
    shape: tuple[int, ...],
) -> Iterator[PlanRow]:
    before, after = layer_costs(network, shape), layer_costs(slim, shape)
    for name, count in counts.items():
        for layer in graph.groups[name].layers:
            kept = len(layer.kept(range(count)))
            # A weight that no module owns has no costs of its own there.
            old = before.get(layer.name, LayerCost())
            new = after.get(layer.name, LayerCost())
            yield PlanRow(
                layer.name, layer.filters, kept, kept / layer.filters,
                old.flops, new.flops, old.params, new.params,
            )  # fmt: skip


def try_stages(network: nn.Module, stages: Sequence[Stage], images: torch.Tensor) -> None:
    """Check the law of surgery for the stages still to come, on the real network.

    Args:
        network: As the last finished stage left it, on any device.
        stages: Those still to come.
        images: A batch.

    Raises:
        ThinetError: See :func:`thinet.widths.choose.check_cut`; or if a weight is not finite.
    """
    counts = {name: count for stage in stages for name, count in stage.counts.items()}
    check_weights(network)
    images = images.to(next(network.parameters()).device)
    check_cut(network, trace(network, images[:1]), counts, images)

"""The plan of a run: which layers keep how many filters, and what that will cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from thinet.artifacts.inherit import narrow_
from thinet.artifacts.names import saved_folder
from thinet.metrics import LayerCost, cost, layer_costs
from thinet.models import build
from thinet.pruning.criteria import Candidates
from thinet.pruning.stages import LayerPlace, Stage, make_stages
from thinet.run.setup import Job
from thinet.surgery import ChannelGraph, check_weights, remove_, shared_copy, trace
from thinet.widths.choose import check_cut, choose_counts, choose_groups


@dataclass(frozen=True)
class Plan:
    """What will be cut, found without data or arithmetic.

    Attributes:
        stages: The stages, in order.
        rows: For each layer to cut ``layer``, ``filters_before``, ``filters_after``, ``ratio``,
            and ``flops_*`` and ``params_*`` before and after the whole run.
        totals: ``flops_*``, ``macs_*``, ``params_*``, ``weights_*`` of the network.
        skipped: Layers met by a glob that cannot be pruned, and why.
    """

    stages: tuple[Stage, ...]
    rows: tuple[dict[str, Any], ...]
    totals: dict[str, Any]
    skipped: dict[str, str]


def needs_network(job: Job) -> bool:
    """Whether the widths can only be found with the trained network and its data at hand."""
    widths = job.request.widths
    measured = widths.target is not None and widths.target.kind == "latency"
    return measured or widths.allocation == "error"


def make_plan(job: Job, counts: Mapping[str, int] | None = None) -> Plan:
    """Plan a run on a network without data (``meta`` device).

    Args:
        job: The run.
        counts: Kept units of each group, if they have been found already.

    Raises:
        ThinetError: If layers, ratios or target make no sense for this network.
    """
    shape = (3, job.image_size, job.image_size)
    network, images = on_paper(job)
    graph = trace(network, images[:1])
    names, skipped = choose_groups(network, graph, job.request, images)
    if counts is None:
        counts = choose_counts(network, graph, names, job.request, shape)
    check_statistics(network, graph, job, counts)
    keep = {name: range(count) for name, count in counts.items()}
    slim = remove_(shared_copy(network), graph, keep)
    stages = make_stages(
        job.schedule,
        [_place(network, graph, name) for name in counts],
        counts,
        job.stage,
        job.group_end,
        job.final,
    )
    return Plan(
        stages=tuple(stages),
        rows=tuple(_rows(network, slim, graph, counts, shape)),
        totals=_totals(network, slim, shape),
        skipped=skipped,
    )


def on_paper(job: Job) -> tuple[nn.Module, torch.Tensor]:
    """The network that the run begins with, and two images, on the ``meta`` device."""
    shape = (3, job.image_size, job.image_size)
    arguments = {"num_classes": job.data.num_classes, "image_size": job.image_size}
    with torch.device("meta"):
        network = build(job.model.target, **job.model.arguments, **arguments)
        images = torch.empty(2, *shape)
    folder = saved_folder(job.model.weights)
    return network if folder is None else narrow_(network, folder, shape), images


def check_statistics(
    network: nn.Module, graph: ChannelGraph, job: Job, names: Iterable[str]
) -> None:
    """Let criterion, statistics and reconstruction refuse a group before any long work.

    Raises:
        ThinetError: By the first that refuses.
    """
    for name in names:
        group = graph.groups[name]
        job.criterion.check(Candidates.of(network, group))
        with torch.device("meta"):
            for kind in {*job.criterion.needs, *job.reconstruction.needs}:
                kind.for_group(group, job.sampling, images=1_000_000)


def show_plan(plan: Plan) -> None:
    """Print it: widths, costs, and what is left whole and why."""
    from thinet.report.terminal import print_plan

    skipped = [{"layer": layer, "reason": reason} for layer, reason in plan.skipped.items()]
    print_plan([*plan.rows, *skipped], plan.totals)


def show_costs(job: Job) -> None:
    """Print what the network costs that the run begins with, for methods that cut nothing."""
    from thinet.report.terminal import print_costs

    network, images = on_paper(job)
    print_costs(asdict(cost(network, tuple(images.shape[1:]))))


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
) -> Iterator[dict[str, Any]]:
    before, after = layer_costs(network, shape), layer_costs(slim, shape)
    for name, count in counts.items():
        for layer in graph.groups[name].layers:
            kept = len(layer.kept(range(count)))
            # A weight that no module owns has no costs of its own there.
            old = before.get(layer.name, LayerCost())
            new = after.get(layer.name, LayerCost())
            yield {
                "layer": layer.name,
                "filters_before": layer.filters,
                "filters_after": kept,
                "ratio": kept / layer.filters,
                "flops_before": old.flops,
                "flops_after": new.flops,
                "params_before": old.params,
                "params_after": new.params,
            }


def _totals(network: nn.Module, slim: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        f"{key}_{when}": value
        for when, one in (("before", network), ("after", slim))
        for key, value in asdict(cost(one, shape)).items()
    }


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

"""The plan of a run: which layers keep how many filters, and what that will cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from thinet.job import Job
from thinet.metrics import cost, layer_costs
from thinet.models import build
from thinet.schedule import LayerPlace, Stage, make_stages
from thinet.surgery import (
    ChannelGraph,
    check_plan,
    remove_,
    resolve_counts,
    resolve_layers,
    shared_copy,
    trace,
)


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


def make_plan(job: Job) -> Plan:
    """Plan a run on a network without data (``meta`` device).

    Raises:
        ThinetError: If layers or ratios make no sense for this network.
    """
    shape = (3, job.image_size, job.image_size)
    arguments = {"num_classes": job.data.num_classes, "image_size": job.image_size}
    with torch.device("meta"):
        network = build(job.model.target, **job.model.arguments, **arguments)
    graph = trace(network, torch.empty(1, *shape, device="meta"))
    chosen, skipped = resolve_layers(graph, job.layers, job.model.paper_layers)
    counts = resolve_counts(graph, chosen, job.ratio)
    counts = {name: n for name, n in counts.items() if n < graph.layers[name].filters}
    for kind in {*job.criterion.needs, *job.reconstruction.needs}:
        for name in counts:
            kind.for_layer(graph.layers[name], job.sampling, images=1_000_000)  # may refuse
    keep = {name: list(range(count)) for name, count in counts.items()}
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


def _place(network: nn.Module, graph: ChannelGraph, name: str) -> LayerPlace:
    parent = network.get_submodule(name.rpartition(".")[0])
    in_sequence = isinstance(parent, nn.Sequential) or parent is network
    return LayerPlace(name, in_sequence, graph.layers[name].output_size)


def _rows(
    network: nn.Module,
    slim: nn.Module,
    graph: ChannelGraph,
    counts: Mapping[str, int],
    shape: tuple[int, ...],
) -> list[dict[str, Any]]:
    before, after = layer_costs(network, shape), layer_costs(slim, shape)
    return [
        {
            "layer": name,
            "filters_before": graph.layers[name].filters,
            "filters_after": count,
            "ratio": count / graph.layers[name].filters,
            "flops_before": before[name][0],
            "flops_after": after[name][0],
            "params_before": before[name][1],
            "params_after": after[name][1],
        }
        for name, count in counts.items()
    ]


def _totals(network: nn.Module, slim: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        f"{key}_{when}": value
        for when, one in (("before", network), ("after", slim))
        for key, value in asdict(cost(one, shape)).items()
    }


def try_stages(network: nn.Module, stages: Sequence[Stage], images: torch.Tensor) -> None:
    """Check the law of surgery for the stages still to come, on the real network.

    Raises:
        ThinetError: See :func:`thinet.surgery.check_plan`.
    """
    counts = {name: count for stage in stages for name, count in stage.counts.items()}
    check_plan(network, trace(network, images[:1]), counts, images)

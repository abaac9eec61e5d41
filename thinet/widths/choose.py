"""From what was asked for (layers, ratio or budget) to the units that each group keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from thinet.base.errors import ThinetError
from thinet.metrics import cost_model, latencies_ms
from thinet.surgery import ChannelGraph, remove_, settle, shared_copy, try_cut
from thinet.widths.allocate import allocated_counts, uniform_counts
from thinet.widths.resolve import resolve_counts, resolve_layers
from thinet.widths.target import Target, Widths

Losses = Mapping[str, NDArray[np.float64]]
HALVINGS = 8
"""Steps of the search for a latency: the last changes the FLOPs by 0.4 %."""


@dataclass(frozen=True)
class Request:
    """What a user asked for.

    Attributes:
        layers: ``auto``, ``paper``, ``inner``, ``all``, a name or glob, or a list of those.
        ratio: Fraction of units kept, one or by name or glob; a target goes before it.
        widths: A budget and its allocation.
        paper: What ``layers=paper`` stands for.
        by_place: Ratios of single groups, by their place among those to prune; the others have
            ``ratio``, which is then a number. With a target all of these only say how groups
            compare, and one common factor meets the budget.
    """

    layers: str | Sequence[str] = "auto"
    ratio: float | Mapping[str, float] = 0.5
    widths: Widths = field(default_factory=Widths)
    paper: Sequence[str] = ()
    by_place: Mapping[int, float] = field(default_factory=dict)


def choose_groups(
    network: nn.Module, graph: ChannelGraph, request: Request, images: Tensor
) -> tuple[list[str], dict[str, str]]:
    """The groups to prune, each tried on a copy, and the layers left whole with the reason.

    Args:
        network: The network; on the ``meta`` device only its shapes are tried.
        graph: Its trace.
        request: What was asked for.
        images: At least one image.

    Raises:
        ThinetError: See :func:`resolve_layers` and :func:`thinet.surgery.settle`.
    """
    names, skipped = resolve_layers(graph, request.layers, request.paper)
    listed = [request.layers] if isinstance(request.layers, str) else request.layers
    asked = [name for name in names if name in listed]
    halves = {name: max(1, graph.groups[name].units // 2) for name in names}
    counts, faults = settle(network, graph, halves, images, asked)
    for name, reason in faults.items():
        skipped |= {layer.name: reason for layer in graph.groups[name].layers}
    return list(counts), skipped


def choose_counts(
    network: nn.Module,
    graph: ChannelGraph,
    names: Sequence[str],
    request: Request,
    shape: tuple[int, ...],
    losses: Losses | None = None,
) -> dict[str, int]:
    """How many units each group keeps; groups that stay whole are left out.

    Args:
        network: The network; for a latency target on the device that counts.
        graph: Its trace.
        names: From :func:`choose_groups`.
        request: What was asked for.
        shape: ``(C, H, W)``.
        losses: The loss of each group at every width, for ``allocation=error``.

    Raises:
        ThinetError: If a ratio makes no sense, nothing would be removed, or the target cannot be
            reached.
    """
    widths = request.widths
    if widths.target is None:
        ratio = _by_group(names, request) or request.ratio
        counts = resolve_counts(graph, names, ratio, widths.round_to)
    else:
        counts = _within(network, graph, names, request, widths.target, shape, losses)
    counts = {name: count for name, count in counts.items() if count < graph.groups[name].units}
    if not counts:
        budget = "target" if widths.target is None else widths.target.setting
        raise ThinetError(
            f"with round_to={widths.round_to} every layer stays as wide as it is: give a smaller "
            f"ratio, a lower {budget}, or round_to=1."
        )
    return counts


def check_cut(
    network: nn.Module, graph: ChannelGraph, counts: Mapping[str, int], images: Tensor
) -> None:
    """Try the very widths of a plan on a copy: zeroing must equal removing.

    Raises:
        ThinetError: If it does not.
    """
    fault = try_cut(network, graph, counts, images)
    if fault is not None:
        raise ThinetError(
            f"this network cannot be cut as planned: {fault}; prune other layers with layers=[...]."
        )


def _by_group(names: Sequence[str], request: Request) -> dict[str, float] | None:
    """The ratio of every group, where single groups were given one by their place."""
    if not request.by_place:
        return None
    beyond = sorted(place for place in request.by_place if place >= len(names))
    if beyond:
        raise ThinetError(
            f"layer_ratio has a ratio for layer {beyond[0]}, and {len(names)} layers are to be "
            f"pruned: count them from 0 to {len(names) - 1} in the order of the plan (dry_run=true "
            "prints it)."
        )
    assert not isinstance(request.ratio, Mapping)  # checked with the configuration
    return {name: request.by_place.get(place, request.ratio) for place, name in enumerate(names)}


def _within(
    network: nn.Module,
    graph: ChannelGraph,
    names: Sequence[str],
    request: Request,
    target: Target,
    shape: tuple[int, ...],
    losses: Losses | None,
) -> dict[str, int]:
    widths, shares = request.widths, _by_group(names, request)
    kind = "params" if target.kind == "params" else "flops"
    model = cost_model(network, graph, names, kind, shape)
    units = np.array([graph.groups[name].units for name in names], dtype=np.float64)
    full = model(np.ones(len(names)))

    def at_most(fraction: float) -> dict[str, int] | None:
        def fits(counts: Mapping[str, int]) -> bool:
            kept = np.array([counts[name] for name in names]) / units
            return model(kept) <= fraction * full * (1 + 1e-9)

        if losses is not None:
            return allocated_counts(graph, model, losses, widths.round_to, fits)
        return uniform_counts(graph, names, widths.round_to, fits, shares)

    if target.kind == "latency":
        found = _fast_enough(network, graph, target, shape, at_most)
    else:
        found = at_most(target.fraction_of(full))
    if found is None:
        finer = ", round_to=1" if widths.round_to > 1 else ""
        raise ThinetError(
            f"{target.setting}={target} is out of reach: even with the fewest filters in the "
            f"layers chosen more than {target.bound} would be left; "
            f"raise the {target.setting}"
            f"{finer}, or type layers=all."
        )
    return found


def _fast_enough(
    network: nn.Module,
    graph: ChannelGraph,
    target: Target,
    shape: tuple[int, ...],
    at_most: Callable[[float], dict[str, int] | None],
) -> dict[str, int] | None:
    """The widths with most FLOPs whose measured latency is within the budget.

    Slim and full network take turns, so that a drifting machine is fair to both.

    Raises:
        ThinetError: If the full network is within it too.
    """
    if target.amount is not None:
        target.fraction_of(latencies_ms([network], shape)[0])
    low, high = 0.0, 1.0
    best = None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        counts = at_most(middle)
        if counts is None or not _is_within(network, graph, counts, target, shape):
            high = middle if counts is not None else high
            low = middle if counts is None else low
        else:
            best, low = counts, middle
    return best


def _is_within(
    network: nn.Module,
    graph: ChannelGraph,
    counts: Mapping[str, int],
    target: Target,
    shape: tuple[int, ...],
) -> bool:
    keep = {name: range(count) for name, count in counts.items()}
    slim = remove_(shared_copy(network), graph, keep)
    before, after = latencies_ms([network, slim], shape)
    return target.admits(after, before)

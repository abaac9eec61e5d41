"""From what the user wrote (names, globs, ratios) to layers and filter counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from thinet.base.errors import ThinetError
from thinet.surgery import ChannelGraph, Group
from thinet.widths.ratio import check_ratio, kept_count

_STREAM = "its output is added to that of other layers: layers=all prunes them together"


def resolve_layers(
    graph: ChannelGraph, layers: str | Sequence[str], paper: Sequence[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """Which groups to prune, in order of execution, and why others asked for are left whole.

    Args:
        graph: The traced network.
        layers: ``"inner"`` (every layer whose output is not added to that of others), ``"all"``
            (residual streams too, each as one), ``"paper"``, ``"auto"`` (``paper`` where the
            network has it, else ``inner``), a name or glob, or a list of those. The name of a layer
            that is coupled to others stands for all of them; a glob leaves such layers whole.
        paper: What ``"paper"`` stands for in this network: names or globs.

    Returns:
        Names of groups, and for each layer that was met but cannot be pruned the reason.

    Raises:
        ThinetError: If a name or glob matches nothing, a layer asked for by its own name cannot be
            pruned, or nothing is left to prune.
    """
    if layers == "auto":
        layers = "paper" if paper else "inner"
    if layers == "paper":
        if not paper:
            raise ThinetError(
                "layers=paper: this network has no set of layers from the paper; "
                "type layers=inner, layers=all or a list of names."
            )
        layers = list(paper)
    if layers in ("inner", "all"):
        chosen, skipped = _everything(graph, summed=layers == "all")
    else:
        patterns = [layers] if isinstance(layers, str) else list(layers)
        chosen, skipped = _named(graph, patterns)
    if not chosen:
        why = next(iter(skipped.values()), "it has no convolution that another layer reads")
        raise ThinetError(
            f"no layer is left to prune with layers={layers} ({why}): "
            f"this network's prunable layers are {_some(graph.prunable(summed=True)) or 'none'}."
        )
    return [name for name in graph.groups if name in chosen], skipped


def _everything(graph: ChannelGraph, summed: bool) -> tuple[set[str], dict[str, str]]:
    chosen = set(graph.prunable(summed))
    skipped = {
        layer.name: group.reason or _STREAM
        for name, group in graph.groups.items()
        if name not in chosen
        for layer in group.layers
    }
    return chosen, skipped | graph.facts.whole


def _named(graph: ChannelGraph, patterns: Sequence[str]) -> tuple[set[str], dict[str, str]]:
    chosen: set[str] = set()
    skipped: dict[str, str] = {}
    for pattern in patterns:
        for name in _matches(graph, pattern):
            group = graph.group_of(name)
            reason = group.reason
            if name == pattern and reason is not None:
                raise ThinetError(
                    f"layer {name} cannot be pruned: {reason}; choose among "
                    f"{_some(graph.prunable())}."
                )
            if name != pattern and reason is None and group.summed:
                reason = _STREAM
            if reason is None:
                chosen.add(group.name)
            else:
                skipped[name] = reason
    left = {name: why for name, why in skipped.items() if graph.group_of(name).name not in chosen}
    return chosen, left


def resolve_counts(
    graph: ChannelGraph,
    layers: Iterable[str],
    ratio: float | Mapping[str, float],
    round_to: int = 1,
) -> dict[str, int]:
    """How many units each group keeps.

    Args:
        graph: The traced network.
        layers: Names of the groups to prune.
        ratio: One ratio for all, or a mapping from names or globs of layers to ratios; a name goes
            before a glob, an earlier glob before a later one. Groups that match nothing are left
            whole.
        round_to: Widths are rounded to the nearest multiple of this, at least one.

    Raises:
        ThinetError: If a ratio is outside (0, 1], a key matches no layer to prune, or every filter
            of every layer would stay.
    """
    check_ratio(ratio)
    layers = list(layers)
    counts: dict[str, int] = {}
    rules = dict(ratio) if isinstance(ratio, Mapping) else {"*": ratio}
    names = {name: [layer.name for layer in graph.groups[name].layers] for name in layers}
    for pattern in rules:
        if not any(fnmatchcase(name, pattern) for team in names.values() for name in team):
            raise ThinetError(
                f"ratio has a key {pattern!r} that matches no layer to prune: "
                f"choose among {_some(layers)}."
            )
    for name, team in names.items():
        rule = next((key for key in (*team, *rules) if key in rules and _meets(team, key)), None)
        if rule is not None:
            counts[name] = rounded(graph.groups[name], rules[rule], round_to)
    if all(graph.groups[name].units == 1 for name in layers):
        raise ThinetError(
            f"{_some(layers)} cannot be pruned: one filter is all that each of them has, and one "
            "has to stay; choose other layers."
        )
    if all(counts[name] == graph.groups[name].units for name in counts):
        rounding = f" with round_to={round_to}" if round_to > 1 else ""
        advice = " or round_to=1" if rounding else ", for example ratio=0.5"
        raise ThinetError(
            f"ratio={ratio}{rounding} keeps every filter of every layer, so there is nothing to "
            f"prune: give a smaller ratio{advice}."
        )
    return counts


def _meets(names: Iterable[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def rounded(group: Group, ratio: float, round_to: int = 1) -> int:
    """Units that a group keeps at ``ratio``, so that its widths are multiples of ``round_to``.

    The width is that of its first layer. Where it has no multiple of ``round_to`` filters to begin
    with, or fewer, all its units stay.
    """
    if round_to == 1:
        return kept_count(group.units, ratio)
    each = max(1, group.layers[0].filters // group.units)
    step = round_to // math.gcd(round_to, each)  # units that make a multiple of round_to filters
    if group.units < step:
        return group.units
    count = max(1, math.floor(group.units * ratio / step + 0.5)) * step
    return min(group.units, count)


def _matches(graph: ChannelGraph, pattern: str) -> list[str]:
    met = [name for name in graph.layers if fnmatchcase(name, pattern)]
    if not met and pattern in graph.facts.whole:
        raise ThinetError(
            f"layer {pattern} cannot be pruned: {graph.facts.whole[pattern]}; choose among "
            f"{_some(graph.prunable())}."
        )
    if not met:
        near = get_close_matches(pattern, graph.prunable(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ThinetError(
            f"layers: {pattern!r} matches no layer; {hint}choose among {_some(graph.prunable())}."
        )
    return met


def _some(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

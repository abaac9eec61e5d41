"""From what the user wrote (names, globs, ratios) to layers and filter counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from thinet.errors import ThinetError
from thinet.ratio import check_ratio, kept_count
from thinet.surgery.graph import ChannelGraph


def resolve_layers(
    graph: ChannelGraph, layers: str | Sequence[str], paper: Sequence[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """Which layers to prune, in order of execution, and why others asked for are left whole.

    Args:
        graph: The traced network.
        layers: ``"all"`` (every convolution that can be pruned by itself), ``"paper"``, a name or
            glob, or a list of those.
        paper: What ``"paper"`` stands for in this network: names or globs.

    Returns:
        The layers, and for each convolution that ``all`` or a glob met but that cannot be pruned
        the reason.

    Raises:
        ThinetError: If a name or glob matches nothing, a layer asked for by its own name cannot be
            pruned, or nothing is left to prune.
    """
    if layers == "paper":
        if not paper:
            raise ThinetError(
                "layers=paper: this network has no set of layers from the paper; "
                "type layers=all or a list of names."
            )
        layers = list(paper)
    everything = layers == "all"
    patterns = ["*"] if everything else [layers] if isinstance(layers, str) else list(layers)
    chosen: set[str] = set()
    skipped: dict[str, str] = {}
    for pattern in patterns:
        met = _matches(graph, pattern)
        for name in met:
            layer = graph.layers[name]
            if layer.kind == "linear" and pattern == "*":
                continue
            if layer.reason is None:
                chosen.add(name)
            elif name == pattern:
                raise ThinetError(
                    f"layer {name} cannot be pruned: {layer.reason}; choose among "
                    f"{_some(graph.prunable())}."
                )
            else:
                skipped[name] = layer.reason
    if not chosen:
        raise ThinetError(
            f"no layer is left to prune with layers={layers}: "
            f"this network's prunable layers are {_some(graph.prunable()) or 'none'}."
        )
    return [name for name in graph.layers if name in chosen], skipped


def resolve_counts(
    graph: ChannelGraph, layers: Iterable[str], ratio: float | Mapping[str, float]
) -> dict[str, int]:
    """How many filters each layer keeps.

    Args:
        graph: The traced network.
        layers: The layers to prune.
        ratio: One ratio for all, or a mapping from names or globs to ratios; a name goes before a
            glob, an earlier glob before a later one. Layers that match nothing are left whole.

    Raises:
        ThinetError: If a ratio is outside (0, 1], a key matches no layer to prune, or every filter
            of every layer would stay.
    """
    check_ratio(ratio)
    layers = list(layers)
    counts: dict[str, int] = {}
    rules = dict(ratio) if isinstance(ratio, Mapping) else {"*": ratio}
    for pattern in rules:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ThinetError(
                f"ratio has a key {pattern!r} that matches no layer to prune: "
                f"choose among {_some(layers)}."
            )
    for name in layers:
        rule = next(
            (key for key in (name, *rules) if key in rules and fnmatchcase(name, key)), None
        )
        if rule is not None:
            counts[name] = kept_count(graph.layers[name].filters, rules[rule])
    if all(counts[name] == graph.layers[name].filters for name in counts):
        raise ThinetError(
            f"ratio={ratio} keeps every filter of every layer, so there is nothing to prune: "
            "give a smaller ratio, for example ratio=0.5."
        )
    return counts


def _matches(graph: ChannelGraph, pattern: str) -> list[str]:
    met = [name for name in graph.layers if fnmatchcase(name, pattern)]
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

"""From the labels on a network's tensors to groups of channels that go together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from thinet.surgery.graph import (
    ChannelGraph,
    Consumer,
    Facts,
    Follower,
    Group,
    Layer,
    Use,
    owner,
)
from thinet.surgery.labels import NONE


def make_graph(uses: tuple[Use, ...], facts: Facts) -> ChannelGraph:
    """Put together what a trace found.

    Args:
        uses: With representative labels.
        facts: Everything else.
    """
    produced = {use.tensor: use.labels for use in uses if use.role == "produce"}
    teams = _teams(produced)
    of_label = {
        label: place for place, team in enumerate(teams) for label in _labels_of(team, produced)
    }
    parts: list[list[Use]] = [[] for _ in teams]
    for use in uses:
        for place in {of_label[label] for label in _distinct(use.labels) if label in of_label}:
            parts[place].append(use)
    groups = [_group(team, produced, part, facts) for team, part in zip(teams, parts, strict=True)]
    return ChannelGraph({group.name: group for group in groups}, uses, facts)


def shrink(graph: ChannelGraph, keep: Mapping[str, Sequence[int]]) -> ChannelGraph:
    """The graph of the network that :func:`thinet.surgery.slim.remove_` leaves.

    Equal to tracing that network, without running it. (``output_size`` stays as it was.)
    """
    gone = graph.removed_labels(keep)
    uses = tuple(replace(use, labels=_without(use.labels, gone)) for use in graph.uses)
    readers = dict(graph.facts.readers)
    for before, after in zip(graph.uses, uses, strict=True):
        if before.role == "consume" and before.labels.numel():
            unknowns, groups = readers[before.tensor]
            taps = unknowns // before.labels.numel()
            readers[before.tensor] = (taps * after.labels.numel(), groups)
    rectified = tuple((_without(labels, gone), tensor) for labels, tensor in graph.facts.rectified)
    return make_graph(uses, replace(graph.facts, readers=readers, rectified=rectified))


def _without(labels: Tensor, gone: Tensor) -> Tensor:
    return labels[~torch.isin(labels, gone)]


def _distinct(labels: Tensor) -> Iterable[int]:
    return set(labels[labels >= 0].tolist())


def _labels_of(team: list[str], produced: Mapping[str, Tensor]) -> set[int]:
    return {label for weight in team for label in _distinct(produced[weight])}


def _teams(produced: Mapping[str, Tensor]) -> list[list[str]]:
    """Producing weights that share labels, in order of execution."""
    team_of: dict[int, list[str]] = {}
    for weight, labels in produced.items():
        met = {id(team_of[x]): team_of[x] for x in _distinct(labels) if x in team_of}
        joined = [weight] if not met else [*(w for team in met.values() for w in team), weight]
        for label in _labels_of(joined, produced):
            team_of[label] = joined
    order = {weight: place for place, weight in enumerate(produced)}
    teams = {id(team): sorted(team, key=order.__getitem__) for team in team_of.values()}
    return sorted(teams.values(), key=lambda team: order[team[0]])


def _group(
    team: list[str], produced: Mapping[str, Tensor], uses: Sequence[Use], facts: Facts
) -> Group:
    labels = torch.tensor(sorted(_labels_of(team, produced)), dtype=torch.int64)
    layers = tuple(
        Layer(
            name=owner(weight),
            weight=weight,
            kind=facts.produced[weight].kind,
            output_size=facts.produced[weight].output_size,
            units=_places(produced[weight], labels),
        )
        for weight in team
    )
    summed = any(label in facts.summed for label in labels.tolist())
    consumers = tuple(
        _consumer(use, labels, produced[use.tensor].numel(), facts)
        for use in uses
        if use.role == "consume"
    )
    reason = next((facts.frozen[x] for x in labels.tolist() if x in facts.frozen), None)
    if reason is None and len(labels) < 2 <= layers[0].filters:
        reason = "its filters depend on one another"
    if reason is None and not consumers:
        reason = "no layer reads them"
    return Group(
        name=layers[0].name,
        layers=layers,
        labels=labels,
        consumers=consumers,
        scales=tuple(
            Follower(use.tensor, _places(use.labels, labels))
            for use in uses
            if use.tensor in facts.scales
        ),
        rectified=_rectified(labels, facts),
        summed=summed,
        reason=reason,
    )


def _places(labels: Tensor, units: Tensor) -> Tensor:
    """Where each label stands in the sorted ``units``, or NONE."""
    at = torch.searchsorted(units, labels).clamp_max(len(units) - 1)
    return torch.where(units[at] == labels, at, NONE)


def _consumer(use: Use, labels: Tensor, outputs: int, facts: Facts) -> Consumer:
    unknowns, groups = facts.readers[use.tensor]
    return Consumer(
        weight=use.tensor,
        kind=facts.produced[use.tensor].kind,
        channels=_places(use.labels, labels).repeat(groups),
        calls=facts.calls[use.tensor],
        unknowns=unknowns,
        outputs=outputs,
        groups=groups,
        joins=facts.joins.get(use.tensor, 0),
        shift=facts.shifts.get(use.tensor),
    )


def _rectified(labels: Tensor, facts: Facts) -> Follower | None:
    """The first tensor before a ReLU whose channels are just those of the group."""
    for seen, tensor in facts.rectified:
        if seen.numel() and set(seen.tolist()) == set(labels.tolist()):
            return Follower(tensor, _places(seen, labels))
    return None

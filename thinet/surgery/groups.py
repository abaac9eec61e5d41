"""From the labels on a network's tensors to groups of channels that go together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from thinet.surgery.labels import NONE, among


def make_graph(uses: tuple[Use, ...], facts: Facts) -> ChannelGraph:
    """Put together what a trace found.

    Args:
        uses: With representative labels.
        facts: Everything else.
    """
    return ChannelGraph(_Groups(uses, facts), uses, facts)


class _Groups(Mapping[str, Group]):
    """The groups by name, each put together when it is first asked for.

    A run that prunes group after group asks for one or two of the hundreds in each graph.
    """

    def __init__(self, uses: tuple[Use, ...], facts: Facts) -> None:
        self._produced = {use.tensor: use for use in uses if use.role == "produce"}
        self._facts = facts
        labels = {weight: use.labels for weight, use in self._produced.items()}
        self._teams, home = _teams(labels, _size(uses))
        self._uses: list[list[Use]] = [[] for _ in self._teams]
        for use in uses:
            for place in _distinct(home[use.labels[use.labels >= 0]]):
                self._uses[place].append(use)
        self._rectified: list[list[tuple[Tensor, str]]] = [[] for _ in self._teams]
        for seen, tensor in facts.rectified:
            for place in _distinct(home[seen[seen >= 0][:1]]):
                self._rectified[place].append((seen, tensor))
        self._places = {owner(team[0]): place for place, team in enumerate(self._teams)}
        self._made: dict[str, Group] = {}

    def __getitem__(self, name: str) -> Group:
        if name not in self._made:
            place = self._places[name]
            team = {weight: self._produced[weight] for weight in self._teams[place]}
            self._made[name] = _group(
                team, self._uses[place], self._rectified[place], self._produced, self._facts
            )
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


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
    return labels[~among(labels, gone)]


def _size(uses: Iterable[Use]) -> int:
    """How long a table is that has an entry for every label."""
    return 1 + max((int(use.labels.max()) for use in uses if use.labels.numel()), default=0)


def _distinct(numbers: Tensor) -> list[int]:
    """The numbers that are not negative, each once."""
    found: list[int] = torch.unique(numbers).tolist()
    return [number for number in found if number >= 0]


def _teams(produced: Mapping[str, Tensor], size: int) -> tuple[list[list[str]], Tensor]:
    """Producing weights that share labels.

    Args:
        produced: The labels of each, in order of execution.
        size: Above every label.

    Returns:
        The teams in order of execution, and for each label the place of its team in that list,
        or -1: int64, shape ``(size,)``.
    """
    team_of = torch.full((size,), -1)
    members: dict[int, list[str]] = {}
    order = {weight: place for place, weight in enumerate(produced)}
    for weight, labels in produced.items():
        own = labels[labels >= 0]
        if not own.numel():
            continue
        met = _distinct(team_of[own])
        for number in met:
            team_of[team_of == number] = order[weight]
        team_of[own] = order[weight]
        members[order[weight]] = [*(name for number in met for name in members.pop(number)), weight]
    teams = [sorted(team, key=order.__getitem__) for team in members.values()]
    teams.sort(key=lambda team: order[team[0]])
    places = torch.full((len(order) + 1,), -1)  # the last entry is for labels without a team
    for place, team in enumerate(teams):
        places[max(order[weight] for weight in team)] = place
    return teams, places[team_of]


def _group(
    team: Mapping[str, Use],
    uses: Sequence[Use],
    rectified: Iterable[tuple[Tensor, str]],
    produced: Mapping[str, Use],
    facts: Facts,
) -> Group:
    labels = torch.unique(torch.cat([own.labels for own in team.values()]))
    labels = labels[labels >= 0]
    layers = tuple(
        Layer(
            name=owner(weight),
            weight=weight,
            kind=facts.produced[weight].kind,
            output_size=facts.produced[weight].output_size,
            units=_places(own.labels, labels),
            axis=own.axis,
        )
        for weight, own in team.items()
    )
    summed = any(label in facts.summed for label in labels.tolist())
    consumers = tuple(
        _consumer(use, labels, produced[use.tensor].labels.numel(), facts)
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
        rectified=_rectified(labels, rectified),
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


def _rectified(labels: Tensor, rectified: Iterable[tuple[Tensor, str]]) -> Follower | None:
    """The first tensor before a ReLU whose channels are just those of the group."""
    for seen, tensor in rectified:
        if torch.equal(torch.unique(seen), labels):
            return Follower(tensor, _places(seen, labels))
    return None

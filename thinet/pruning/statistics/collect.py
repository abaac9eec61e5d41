"""One pass over the calibration images that feeds the statistics of one group, or of many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from thinet.base.errors import ThinetError
from thinet.pruning.statistics.contributions import ContributionMoments
from thinet.pruning.statistics.exact import from_patches
from thinet.pruning.statistics.gradients import GateGradients, gate_gradients
from thinet.pruning.statistics.patches import PatchMoments
from thinet.pruning.statistics.reference import Outputs, Reference, gains, watch
from thinet.pruning.statistics.statistic import Sampling, Statistic, Summary, T, widened
from thinet.surgery import Group, evaluating
from thinet.surgery.calls import WeightCall


class Evidence:
    """What was collected for one group: the summary of each kind of statistic."""

    def __init__(self, summaries: dict[type[Statistic[Any]], Summary] | None = None) -> None:
        self._found = summaries or {}

    def __getitem__(self, kind: type[Statistic[T]]) -> T:
        return self._found[kind]  # type: ignore[return-value]

    def __contains__(self, kind: object) -> bool:
        return kind in self._found

    def rows(self) -> int | None:
        """Rows behind the statistics, None if there are none."""
        return max((summary.rows for summary in self._found.values()), default=None)


def shard(
    images: Sequence[Tensor], rank: int, world: int, batch: int
) -> Iterator[tuple[Tensor, list[int]]]:
    """The batches of one rank: images ``rank``, ``rank + world``, ... with their numbers.

    Args:
        images: All calibration images, each ``(C, H, W)``, or one tensor ``(N, C, H, W)``.
        rank: This process.
        world: How many there are.
        batch: Images a batch.
    """
    mine = list(range(rank, len(images), world))
    for start in range(0, len(mine), batch):
        numbers = mine[start : start + batch]
        yield torch.stack([images[number] for number in numbers]), numbers


def collect(
    network: nn.Module,
    groups: Sequence[Group],
    needs: Iterable[type[Statistic[Any]]],
    batches: Iterable[tuple[Tensor, list[int]]],
    sampling: Sampling,
    images: int,
    labels: Tensor | None = None,
    reference: Reference | None = None,
    shared: bool = False,
) -> dict[str, Evidence]:
    """Run the network once, as far as needed, and collect what selections ask for.

    Args:
        network: The current network; run in ``eval()`` mode and left as it was.
        groups: The groups whose units are to be judged.
        needs: The kinds of statistic; with none the network does not run.
        batches: Batches of images with the calibration number of each image.
        sampling: How much to look at.
        images: Calibration images over all ranks.
        labels: The class of each calibration image, ``(images,)``, for statistics of gradients.
        reference: The network whose activations are to be reproduced, if not this one's own.
        shared: Whether all processes of the process group call this, each with batches of its own,
            and sum what they saw. One process alone would wait for the others.

    Returns:
        The evidence of each group, by name.

    Raises:
        ThinetError: If an activation is not finite, or gradients are asked for without labels.
    """
    wanted: set[type[Statistic[Any]]] = set(needs)
    derived = sampling.exact and ContributionMoments in wanted
    if derived:
        wanted = (wanted - {ContributionMoments}) | {PatchMoments}
    kinds = sorted(wanted, key=lambda kind: kind.__name__)
    found = [{kind: kind.for_group(group, sampling, images) for kind in kinds} for group in groups]
    statistics = [one for each in found for one in each.values()]
    _run(network, statistics, batches, labels, reference)
    evidence = {}
    for group, own in zip(groups, found, strict=True):
        summaries: dict[Any, Any] = {
            kind: _summarise(statistic, group, shared) for kind, statistic in own.items()
        }
        if derived:
            summaries[ContributionMoments] = from_patches(
                summaries[PatchMoments].of, dict(network.named_parameters()), group
            )
        evidence[group.name] = Evidence(summaries)
    return evidence


def _run(
    network: nn.Module,
    statistics: Sequence[Statistic[Any]],
    batches: Iterable[tuple[Tensor, list[int]]],
    labels: Tensor | None,
    reference: Reference | None,
) -> None:
    device = next(network.parameters()).device
    aimed = [statistic for statistic in statistics if isinstance(statistic, PatchMoments)]
    if reference is None:
        aimed = []
    for moments in aimed:
        moments.expect_targets()
    for statistic in statistics:
        statistic.to(device)
    forward = [statistic for statistic in statistics if not isinstance(statistic, GateGradients)]
    backward = [statistic for statistic in statistics if isinstance(statistic, GateGradients)]
    if backward and labels is None:
        raise ThinetError(
            "criterion=taylor needs the loss and so the labels of the calibration images: pass "
            "batches of (images, labels), or choose another criterion, for example thinet."
        )
    with evaluating(network):
        for batch, numbers in batches if statistics else ():
            if forward:
                seen = _feed(network, batch.to(device), numbers, forward, aimed)
                if reference is not None and aimed:
                    _aim(reference, seen, batch.to(device), numbers, aimed)
            if backward and labels is not None:
                classes = labels[torch.tensor(numbers)].to(device)
                gates = gate_gradients(network, batch.to(device), classes, _expected(backward))
                for judge in backward:
                    judge.update_gates(gates, numbers)


def _summarise(statistic: Statistic[Any], group: Group, shared: bool) -> Summary:
    with statistic.sync_context(should_sync=shared):
        sums = [value for value in statistic.metric_state.values() if isinstance(value, Tensor)]
        if not all(bool(torch.isfinite(value).all()) for value in sums):
            raise ThinetError(
                f"the activations that {group.name} feeds are not finite: the network has "
                "diverged or its weights hold NaN; train it again with a smaller learning rate."
            )
        summary: Summary = statistic.summary()
    return summary


def _expected(statistics: Sequence[Statistic[Any]]) -> dict[str, int]:
    """How often each watched weight is used in one pass."""
    expected: dict[str, int] = {}
    for statistic in statistics:
        for name, calls in statistic.watched.items():
            expected[name] = max(calls, expected.get(name, 0))
    return expected


def _feed(
    network: nn.Module,
    batch: Tensor,
    numbers: list[int],
    statistics: Sequence[Statistic[Any]],
    aimed: Sequence[PatchMoments],
) -> Outputs:
    weights = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    by_weight: dict[str, list[Statistic[Any]]] = defaultdict(list)
    for statistic in statistics:
        for name in statistic.watched:
            by_weight[name].append(statistic)

    def take(call: WeightCall, output: Tensor, turn: int) -> None:
        wide = replace(call, input=widened(call.input))
        for statistic in by_weight[call.weight]:
            if turn < statistic.watched[call.weight]:  # others may wait for later uses
                statistic.update(wide, widened(output), weights[call.weight], numbers, turn)

    return watch(network, batch, _expected(statistics), _joins(aimed), take)


def _aim(
    reference: Reference,
    seen: Outputs,
    batch: Tensor,
    numbers: list[int],
    statistics: Sequence[PatchMoments],
) -> None:
    """Tell the statistics what each output should gain to be that of the reference."""
    wanted = reference.outputs(batch, numbers, _expected(statistics), _joins(statistics))
    for (weight, turn), gain in gains(seen, wanted, reference.filters).items():
        for statistic in statistics:
            statistic.aim(weight, turn, gain)


def _joins(statistics: Sequence[PatchMoments]) -> dict[str, int]:
    return {
        name: consumer.joins
        for statistic in statistics
        for name, consumer in statistic.consumers.items()
    }

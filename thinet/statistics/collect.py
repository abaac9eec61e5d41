"""One pass over the calibration images that feeds the statistics of one layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thinet.errors import ThinetError
from thinet.statistics.statistic import Sampling, Statistic, Summary, T
from thinet.surgery import Layer, evaluating
from thinet.surgery.calls import WeightCall, observe


class Evidence:
    """What was collected for one layer: the summary of each kind of statistic."""

    def __init__(self, summaries: dict[type[Statistic[Any]], Summary] | None = None) -> None:
        self._found = summaries or {}

    def __getitem__(self, kind: type[Statistic[T]]) -> T:
        return self._found[kind]  # type: ignore[return-value]

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


@torch.no_grad()
def collect(
    network: nn.Module,
    layer: Layer,
    needs: Iterable[type[Statistic[Any]]],
    batches: Iterable[tuple[Tensor, list[int]]],
    sampling: Sampling,
    images: int,
) -> Evidence:
    """Run the network as far as needed and collect what the selection of ``layer`` asks for.

    Args:
        network: The current network; run in ``eval()`` mode and left as it was.
        layer: The layer whose filters are to be judged.
        needs: The kinds of statistic; with none the network does not run.
        batches: Batches of images with the calibration number of each image.
        sampling: How much to look at.
        images: Calibration images over all ranks.

    Returns:
        The summaries, summed over the processes of a process group if there is one.

    Raises:
        ThinetError: If an activation is not finite.
    """
    statistics = [kind.for_layer(layer, sampling, images) for kind in dict.fromkeys(needs)]
    if not statistics:
        return Evidence()
    device = next(network.parameters()).device
    expected: dict[str, int] = {}
    for statistic in statistics:
        statistic.to(device)
        for name, calls in statistic.watched.items():
            expected[name] = max(calls, expected.get(name, 0))
    weights = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    with evaluating(network):
        for batch, numbers in batches:
            _feed(network, batch.to(device), numbers, statistics, expected, weights)
    return Evidence({type(statistic): _summarise(statistic, layer) for statistic in statistics})


def _summarise(statistic: Statistic[Any], layer: Layer) -> Summary:
    with statistic.sync_context():
        sums = [value for value in statistic.metric_state.values() if isinstance(value, Tensor)]
        if not all(bool(torch.isfinite(value).all()) for value in sums):
            raise ThinetError(
                f"the activations that {layer.name} feeds are not finite: the network has "
                "diverged or its weights hold NaN; train it again with a smaller learning rate."
            )
        summary: Summary = statistic.summary()
    return summary


def _feed(
    network: nn.Module,
    batch: Tensor,
    numbers: list[int],
    statistics: list[Statistic[Any]],
    expected: dict[str, int],
    weights: dict[str, Tensor],
) -> None:
    turns: Counter[str] = Counter()

    def take(call: WeightCall, output: Tensor) -> None:
        for statistic in statistics:
            if call.weight in statistic.watched:
                weight = weights[call.weight]
                statistic.update(call, output, weight, numbers, turns[call.weight])
        turns[call.weight] += 1

    observe(network, batch, expected, take)

"""One pass over the calibration images that feeds the statistics of one layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from thinet.errors import ThinetError
from thinet.statistics.statistic import Sampling, Statistic
from thinet.surgery import Layer
from thinet.surgery.calls import WeightCall, observe

S = TypeVar("S", bound=Statistic)


class Evidence:
    """The statistics collected for one layer, looked up by their class."""

    def __init__(self, statistics: Iterable[Statistic] = ()) -> None:
        self._found = {type(statistic): statistic for statistic in statistics}

    def __getitem__(self, kind: type[S]) -> S:
        found = self._found[kind]
        assert isinstance(found, kind)
        return found

    def rows(self) -> int | None:
        """Rows behind the statistics, None if there are none."""
        return max((statistic.rows for statistic in self._found.values()), default=None)


def shard(images: Sequence[Tensor], rank: int, world: int, batch: int) -> Iterator[tuple[Tensor, list[int]]]:
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
    needs: Iterable[type[Statistic]],
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
        The statistics. In a process group they are summed over its processes when ``compute`` is
        called through :meth:`torchmetrics.Metric.sync`, which this function does.

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
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        for batch, numbers in batches:
            _feed(network, batch.to(device), numbers, statistics, expected, weights)
    finally:
        for module, training in modes.items():
            module.training = training
    for statistic in statistics:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            statistic.sync()
        for value in statistic.metric_state.values():
            if isinstance(value, Tensor) and not bool(torch.isfinite(value).all()):
                raise ThinetError(
                    f"the activations that {layer.name} feeds are not finite: the network has "
                    "diverged or its weights hold NaN; train it again with a smaller learning rate."
                )
    return Evidence(statistics)


def _feed(
    network: nn.Module,
    batch: Tensor,
    numbers: list[int],
    statistics: list[Statistic],
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

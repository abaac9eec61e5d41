"""Measured time of one forward pass."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import nn

from thinet.surgery import evaluating


@torch.no_grad()
def latencies_ms(
    networks: Sequence[nn.Module], input_shape: tuple[int, ...], runs: int = 15, batch: int = 1
) -> list[float]:
    """Median milliseconds of a forward pass of each network, in ``eval()`` mode.

    The networks take turns, so that a machine whose speed drifts is equally unfair to all.

    Args:
        networks: All on one device; their modes are left as they were.
        input_shape: ``(C, H, W)``.
        runs: Timed passes, after three that are not.
        batch: Images a pass.
    """
    parameter = next(networks[0].parameters())
    images = torch.zeros(batch, *input_shape, device=parameter.device, dtype=parameter.dtype)
    times: list[list[float]] = [[] for _ in networks]
    with evaluating(*networks):
        for turn in range(runs + 3):
            for network, own in zip(networks, times, strict=True):
                start = time.perf_counter()
                network(images)
                if parameter.device.type == "cuda":
                    torch.cuda.synchronize(parameter.device)
                if turn >= 3:
                    own.append(time.perf_counter() - start)
    return [statistics.median(own) * 1e3 for own in times]


def latency_ms(network: nn.Module, input_shape: tuple[int, ...], runs: int = 15) -> float:
    """Median milliseconds for one image; see :func:`latencies_ms`.

    Comparable only with figures of the same machine, measured in the same run.
    """
    return latencies_ms([network], input_shape, runs)[0]

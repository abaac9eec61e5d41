"""Measured time of one forward pass."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn


@torch.no_grad()
def latency_ms(
    network: nn.Module, input_shape: tuple[int, ...], runs: int = 15, batch: int = 1
) -> float:
    """Median milliseconds of a forward pass on the network's own device, in ``eval()`` mode.

    Comparable only with figures of the same machine, measured in the same run.

    Args:
        network: The network; its modes are left as they were.
        input_shape: ``(C, H, W)``.
        runs: Timed passes, after three that are not.
        batch: Images a pass.
    """
    parameter = next(network.parameters())
    images = torch.zeros(batch, *input_shape, device=parameter.device, dtype=parameter.dtype)
    modes = {module: module.training for module in network.modules()}
    network.eval()
    times = []
    for turn in range(runs + 3):
        start = time.perf_counter()
        network(images)
        if parameter.device.type == "cuda":
            torch.cuda.synchronize(parameter.device)
        if turn >= 3:
            times.append(time.perf_counter() - start)
    for module, training in modes.items():
        module.training = training
    return statistics.median(times) * 1e3

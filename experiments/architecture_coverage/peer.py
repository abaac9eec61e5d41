"""The same network pruned with Torch-Pruning."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from experiments.architecture_coverage.one_network import (
    CLASSES,
    RATIO,
    Row,
    build,
    cpu_seconds,
    image_size,
    peak_mb,
)
from thinet.base.errors import first_line
from thinet.metrics import cost


def with_torch_pruning(name: str, patience: float) -> Row:
    """Prune one network with Torch-Pruning: L1, half of all but the classifier's output.

    Args:
        name: Its name in torchvision.
        patience: CPU seconds until it is stopped.
    """
    import torch_pruning

    size = image_size(name)
    network = build(name, size)
    images = torch.randn(1, 3, size, size)
    before = cost(network, (3, size, size))
    heads = [module for module in network.modules() if _outputs(module) == CLASSES]
    row: Row = {}
    try:
        with cpu_seconds(row, "tp_s"), stopped_after(patience):
            torch_pruning.pruner.BasePruner(
                network,
                images,
                importance=torch_pruning.importance.MagnitudeImportance(p=1),
                pruning_ratio=1 - RATIO,
                ignored_layers=heads[-1:],
            ).step()
    except TimeoutError:
        return {**row, "tp_status": "timeout"}
    except Exception as error:  # whatever it does not understand
        return {**row, "tp_status": "raises", "tp_error": described(error)}
    try:
        with torch.no_grad():
            network.eval()(torch.randn(3, 3, size, size))
        after = cost(network, (3, size, size))
    except Exception as error:
        return {**row, "tp_status": "output does not run", "tp_error": described(error)}
    return {
        **row,
        "tp_status": "ok",
        "tp_flops_left": after.flops / before.flops,
        "tp_params_left": after.params / before.params,
        "tp_peak_mb": peak_mb(),
    }


def _outputs(module: nn.Module) -> int | None:
    return getattr(module, "out_features", getattr(module, "out_channels", None))


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Raise TimeoutError once the block has taken that much CPU time."""

    def stop(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def described(error: Exception) -> str:
    """Its type and its first line."""
    return f"{type(error).__name__}: {first_line(error)}"

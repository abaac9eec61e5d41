"""The figures of a network: accuracy, cost and latency."""

from __future__ import annotations

from dataclasses import asdict, replace

from torch import nn

from thinet.base.files import read_json, write_json_atomic
from thinet.engine.engine import Engine
from thinet.metrics import cost, latency_ms
from thinet.run.result import Measurement
from thinet.run.setup import Setup

ACCURACY = "accuracy.json"


def measure(setup: Setup, engine: Engine, network: nn.Module) -> Measurement:
    """Costs and latency of a network, without its accuracy."""
    network.to(engine.device)
    shape = tuple(setup.data.input_shape)
    return Measurement(**asdict(cost(network, shape)), latency_ms=latency_ms(network, shape))


def evaluate_fully(setup: Setup, engine: Engine, network: nn.Module) -> Measurement:
    """Accuracy on test and validation, costs and latency."""
    test, val = engine.evaluate(network, "test"), engine.evaluate(network, "val")
    return replace(
        measure(setup, engine, network),
        top1=test.top1, top5=test.top5, val_top1=val.top1, val_top5=val.top5,
    )  # fmt: skip


def measure_baseline(setup: Setup, engine: Engine, network: nn.Module) -> Measurement:
    """Figures of the baseline; the points of a sweep share its accuracies like its weights."""
    path = setup.source.cache / ACCURACY
    shared = engine.world == 1  # processes must not disagree on whether to evaluate
    images = setup.data.identity()
    if shared and path.exists():
        known = read_json(path)
        if known.pop("data", images) == images:
            return replace(measure(setup, engine, network), **known)
    found = evaluate_fully(setup, engine, network)
    if shared:
        keys = ("top1", "top5", "val_top1", "val_top5")
        write_json_atomic(path, {**{key: getattr(found, key) for key in keys}, "data": images})
    return found

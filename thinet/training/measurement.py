"""The figures of a network: accuracy, cost and latency."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from torch import nn

from thinet.base.errors import ThinetError
from thinet.base.evaluation import CLASSIFICATION, RETRIEVAL
from thinet.base.files import read_json, write_json_atomic
from thinet.base.records import from_json, to_json
from thinet.engine.engine import Engine
from thinet.metrics import cost, latency_ms
from thinet.run.result import Measurement
from thinet.run.setup import Setup

ACCURACIES = {CLASSIFICATION: "accuracy.json", RETRIEVAL: "retrieval.json"}
"""Where figures of the baseline are kept beside it, by how test images are evaluated."""


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
        **asdict(test), val_top1=val.top1, val_top5=val.top5,
    )  # fmt: skip


def measure_baseline(setup: Setup, engine: Engine, network: nn.Module) -> Measurement:
    """Figures of the baseline; the points of a sweep share its accuracies like its weights."""
    path = setup.source.cache / ACCURACIES[setup.evaluate]
    # Processes must not disagree on whether to evaluate; without images there is nothing to share.
    shared = engine.world == 1 and setup.data.has_images
    images = setup.data.identity()
    known = _read(path) if shared else None
    if known is not None and known.data == images:
        accuracy = {key: value for key, value in vars(known).items() if key != "data"}
        return replace(measure(setup, engine, network), **accuracy)
    found = evaluate_fully(setup, engine, network)
    if shared:
        accuracy = {one.name: found.figures()[one.name] for one in fields(_Known)[1:]}
        write_json_atomic(path, to_json(_Known(images, **accuracy)))
    return found


@dataclass(frozen=True)
class _Known:
    """Accuracies that were measured before, and on which images."""

    data: dict[str, str]
    top1: float | None
    top5: float | None
    val_top1: float | None
    val_top5: float | None
    top10: float | None = None
    mean_ap: float | None = None


def _read(path: Path) -> _Known | None:
    """What was measured before; None if nothing was, or the file is not what it should be."""
    if not path.exists():
        return None
    try:
        return from_json(_Known, read_json(path))
    except (ThinetError, ValueError):
        return None

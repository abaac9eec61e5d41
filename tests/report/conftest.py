"""Results, built: what the runs of each method leave, always the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from thinet.base.records import JSON, to_json
from thinet.report.sections.distillation import DistillationDetails, Terms
from thinet.report.sections.pruning import (
    Accuracy,
    BeforeFinetuning,
    LayerRow,
    PruningDetails,
)
from thinet.report.sections.sensitivity import (
    Cell,
    Figures,
    SensitivityDetails,
    Trial,
    Tried,
)
from thinet.run.result import Measurement, Result, RunRecord, StepRecord

FLOPS, PARAMS = 30_940_000_000, 138_340_000
RATIOS = (0.9, 0.7, 0.5, 0.3, 0.1)
PROTOCOL: dict[str, JSON] = {"resize": "keep", "crop": 224}


def measurement(
    top1: float | None = 0.95, flops: int = FLOPS, params: int = PARAMS, **changes: Any
) -> Measurement:
    known: dict[str, Any] = {
        "flops": flops,
        "macs": flops // 2,
        "params": params,
        "weights": params - params // 1000,
        "size_mb": params * 4 / 2**20,
        "latency_ms": 21.0,
        "top1": top1,
        "top5": None if top1 is None else min(1.0, top1 + 0.015),
        "val_top1": None if top1 is None else top1 - 0.005,
        "val_top5": None if top1 is None else min(1.0, top1 + 0.01),
        "bits": 32 * params,
    }
    return Measurement(**{**known, **changes})


def make(
    method: str,
    reference: Measurement,
    model: Measurement | None = None,
    steps: tuple[StepRecord, ...] = (),
    settings: dict[str, JSON] | None = None,
    **changes: Any,
) -> Result:
    """A result; ``changes`` are fields of it or of its ``run``."""
    run = RunRecord(f"vgg16-digits-{method}", method, "vgg16", "digits", 0,
                    f"python run.py method={method} model=vgg16", 754.0)  # fmt: skip
    of_run = {
        key: changes.pop(key) for key in list(changes) if hasattr(run, key) and key != "model"
    }
    if "network" in changes:
        of_run["model"] = changes.pop("network")
    known: dict[str, Any] = {
        "run": replace(run, **of_run),
        "settings": settings or {},
        "sizes": ("ratio",) if "ratio" in (settings or {}) else (),
        "protocol": PROTOCOL,
        "images": {"test": "360 images, abc"},
        "reference": reference,
        "reference_is": "baseline",
        "model": model,
        "steps": steps,
        "details": {},
        "config": {
            "model": {"name": "vgg16", "image_size": 224},
            "layers": ["features.*"],
            "empty": {},
        },
        "environment": {"python": "3.11.2", "torch": "2.11.0", "device": "cpu, 2 cores"},
    }
    return Result(**{**known, **changes})


def layer_names(count: int) -> list[str]:
    """Of a VGG, and of a ResNet where there are more than thirteen."""
    if count <= 13:
        return [f"features.{3 * k}" for k in range(count)]
    return [f"layer{1 + k // 14}.{k % 14}.conv{k % 2 + 1}" for k in range(count)]


def stage(k: int, name: str, flops: int, params: int, recalibrated: bool) -> StepRecord:
    wave = (k * 37 % 11) / 100
    figures = {
        "compression_rate": 1 - flops / FLOPS,
        "flops": flops, "macs": flops // 2,
        "params": params, "weights": params - params // 1000, "size_mb": params * 4 / 2**20,
        "latency_ms": 20.0 - k / 10,
        "top1_plain": 0.80 - 2 * wave, "top5_plain": 0.90 - wave,
        "top1_recalibrated": 0.88 - wave if recalibrated else None,
        "top5_recalibrated": 0.95 - wave if recalibrated else None,
        "top1": 0.975 - wave / 8 - k / 2500, "top5": 0.99,
    }  # fmt: skip
    return StepRecord(k, name, 3.25, 1, figures=figures)


def cut(k: int, name: str, count: int) -> LayerRow:
    width = 64 * 2 ** min(3, k * 4 // count)
    after = int(width * 0.3)
    flops, params = FLOPS // count, PARAMS // count
    return LayerRow(k, name, width, after, 0.3, flops, flops // 4, params, params // 4,
                    tuple(range(after)), 4096, 0.21 + k / 1000, 0.14 + k / 1000)  # fmt: skip


def pruned(
    stages: int = 6, recalibrated: bool = True, top1: float = 0.9769, share: float | None = None,
    **changes: Any,
) -> Result:  # fmt: skip
    """A pruned VGG, or a ResNet of more than thirteen stages.

    Args:
        stages: How many, each of one layer.
        recalibrated: Whether there is BatchNorm.
        top1: Of the model.
        share: Of the FLOPs that are left; by default what is left after the last stage.
        changes: Settings (criterion, ratio ...), or what :func:`make` takes.
    """
    names = layer_names(stages)
    left = [1 - 0.69 * ((k + 1) / stages) ** 0.8 for k in range(stages)]
    costs = [(int(FLOPS * one), int(PARAMS * (0.6 + 0.4 * one))) for one in left]
    flops, params = costs[-1]
    model = measurement(top1, flops if share is None else int(share * FLOPS), params,
                        latency_ms=12.0)  # fmt: skip
    found = PruningDetails(
        tuple(cut(k, name, stages) for k, name in enumerate(names)),
        BeforeFinetuning(Accuracy(0.284, 0.71), Accuracy(0.662, 0.943) if recalibrated else None),
    )
    settings: dict[str, JSON] = {
        "criterion": "thinet", "reconstruction": "scale", "schedule": "layerwise", "ratio": 0.3,
    }  # fmt: skip
    own = {key: changes.pop(key) for key in list(changes) if key in settings}
    known: dict[str, Any] = {
        "reference": measurement(0.9889),
        "model": model,
        "steps": tuple(stage(k, names[k], *costs[k], recalibrated) for k in range(stages)),
        "settings": settings | own,
        "details": {"pruning": to_json(found)},
    }
    return make("prune", **{**known, **changes})


def scratch(**changes: Any) -> Result:
    """The pruned network trained from random weights: nothing is known of the reference."""
    found = PruningDetails((cut(0, "features.0", 1),))
    known: dict[str, Any] = {
        "reference": measurement(None),
        "model": measurement(0.93, FLOPS // 3, PARAMS // 2),
        "steps": (StepRecord(0, "training", 61.0, 30, figures={"top1": 0.925, "top5": 0.99}),),
        "settings": {"ratio": 0.3},
        "details": {"pruning": to_json(found)},
    }
    return make("scratch", **{**known, **changes})


def trained(**changes: Any) -> Result:
    """A network at full width: a reference and nothing else, in one step."""
    steps = (StepRecord(0, "training", 61.0, 30, 512.5, "process", {"top1": 0.9839}),)
    return make("train", **{"reference": measurement(0.9889), "steps": steps, **changes})


def sensitivity_details(layers: int = 13) -> SensitivityDetails:
    names = [
        f"features.{3 * k}" if layers <= 13 else f"layer{1 + k // 18}.{k % 18 // 2}.conv{k % 2 + 1}"
        for k in range(layers)
    ]
    cells = tuple(
        Cell(
            name,
            ratio,
            round(64 * ratio),
            64,
            0.83 - (1 - ratio) ** 3 * (0.05 + 0.6 * ((7 * k) % layers) / layers),
            0.99,
            (1 - ratio) ** 3,
        )
        for k, name in enumerate(names)
        for ratio in RATIOS
    )
    return SensitivityDetails(
        folder="outputs/a run", ratios=RATIOS, images=2000, recalibrated=True,
        full=Figures(0.83, 0.99, 0.0), cells=cells, budget="flops:0.5",
        suggestion={name: 0.1 + 0.9 * k / layers for k, name in enumerate(names)},
        way="sum",
        trial=Trial(Tried(0.4, 0.8, 0.5, 0.4987, 0.6), Tried(0.6, 0.9, 0.4, 0.4991, 0.7)),
    )  # fmt: skip


def scanned(layers: int = 13, details: SensitivityDetails | None = None, **changes: Any) -> Result:
    """What ``method=sensitivity`` leaves."""
    known: dict[str, Any] = {
        "reference": measurement(0.83),
        "details": {"sensitivity": to_json(details or sensitivity_details(layers))},
        "settings": {"criterion": "thinet", "reconstruction": "scale"},
        "command": "python run.py model=resnet56 method=sensitivity method.images=500 ratio=0.3 "
        "+target=flops:0.5 'layers=[layer1.*]' dataset.root=data/cifar10",
    }
    return make("sensitivity", **{**known, **changes})


CCKD = Terms(0.1, 4.0, 100.0, "rbf", 0.4, 2, True, None, None, "auto")
KD = replace(CCKD, beta=0.0)


def distillation_details(**changes: Any) -> DistillationDetails:
    """A teacher, its student and the same student by labels alone."""
    alone = measurement(0.80, FLOPS // 50, PARAMS // 50)
    known: dict[str, Any] = {"epochs": 8, "alone": alone, **changes}
    return replace(DistillationDetails("resnet110", "vgg16", "uniform", CCKD), **known)


def distilled(
    top1: float = 0.91, found: DistillationDetails | None = None, **changes: Any
) -> Result:
    """What ``method=distill`` leaves."""
    known: dict[str, Any] = {
        "reference": measurement(0.95),
        "reference_is": "teacher",
        "model": measurement(top1, FLOPS // 50, PARAMS // 50, latency_ms=2.0),
        "steps": (StepRecord(0, "distilled", 46.0, 8, figures={"top1": 0.9, "top5": 0.99}),),
        "settings": {"distill": "cckd", "teacher": "resnet110"},
        "details": {"distillation": to_json(found or distillation_details())},
    }
    return make("distill", **{**known, **changes})


@dataclass(frozen=True)
class ToyDetails:
    """Of a family that the report has not heard of."""

    word: str


def toy(**changes: Any) -> Result:
    """A binary network beside its full-precision one: nothing of it is pruned."""
    reference = measurement(0.95, 2_000_000, 50_000)
    model = measurement(0.9, 100_000, 50_000, binary_ops=1_900_000, bits=50_000 + 31 * 500,
                        latency_ms=None)  # fmt: skip
    steps = tuple(
        StepRecord(
            k, f"order {k}", 2.0, 1, figures={"top1": 0.7 + k / 10, "residual": 0.5 / (k + 1)}
        )
        for k in range(3)
    )
    known: dict[str, Any] = {
        "reference": reference, "model": model, "steps": steps,
        "settings": {"quantizer": "toy", "order": 2}, "sizes": ("order",),
        "reference_is": "full precision", "details": {"toy": asdict(ToyDetails("hello"))},
    }  # fmt: skip
    return make("binarize", **{**known, **changes})


def write_run(folder: Path, result: Result) -> Path:
    """A finished run."""
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(to_json(result)))
    return folder


def write_failure(folder: Path, **content: Any) -> Path:
    """A point of a sweep that failed."""
    folder.mkdir(parents=True)
    (folder / "failure.json").write_text(json.dumps({"name": folder.name, **content}))
    return folder


Point = Callable[..., Path]


@pytest.fixture
def point(tmp_path: Path) -> Point:
    """Write a finished run whose model has the given accuracy and share of FLOPs."""

    def write(name: str, top1: float = 0.95, share: float = 0.5, **changes: Any) -> Path:
        result = pruned(2, top1=top1, share=share, name=name, **changes)
        return write_run(tmp_path / "runs" / name, result)

    return write


@pytest.fixture
def failure(tmp_path: Path) -> Point:
    """Write a point of a sweep that failed."""
    return lambda name, **content: write_failure(tmp_path / "runs" / name, **content)

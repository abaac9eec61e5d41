"""What ``method=metaprune`` leaves, with numbers that can be followed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tests.report.conftest import FLOPS, PARAMS, layer_names, make, measurement
from thinet.base.records import to_json
from thinet.report.sections.search import (
    UNIFORM,
    Candidate,
    SearchDetails,
    Trained,
    WidthRow,
)
from thinet.run.result import Result, StepRecord

GENERATIONS, POPULATION, IMAGES = 4, 5, 2000
LOW, HIGH = 0.475, 0.5
SCALES = tuple(range(10, 101, 3))


def judged(generations: int = GENERATIONS, population: int = POPULATION) -> tuple[Candidate, ...]:
    """Candidates whose errors fall from generation to generation."""
    rng = np.random.default_rng(0)
    found = []
    for generation in range(generations):
        reached = 0.26 + 0.06 * 0.8**generation
        for place in range(population):
            cost = LOW + (HIGH - LOW) * float(rng.random())
            error = reached + 0.02 * float(rng.standard_normal())
            genes = (generation, place, 20)
            found.append(
                Candidate(genes, generation, min(max(error, 0.0), 1.0), cost, cost, cost - 0.1)
            )
    return tuple(found)


def rows(groups: int = 3) -> tuple[WidthRow, ...]:
    """Widths of some groups; every third is a stream of several layers."""
    found = []
    for k, name in enumerate(layer_names(groups)):
        full = 64 * 2 ** min(3, 4 * k // groups)
        layers = (name,) if k % 3 else (name, f"{name}.after", f"{name}.last")
        kept = 0.25 + 0.75 * ((7 * k) % groups) / max(groups - 1, 1)
        found.append(WidthRow(layers, full, round(kept * full), round(0.7 * full)))
    return tuple(found)


def trained_networks(top1: float = 0.842, even: float = 0.83) -> tuple[Trained, ...]:
    return (
        Trained("found", measurement(top1, FLOPS // 2, PARAMS * 2 // 5)),
        Trained("uniform", measurement(even, round(0.49 * FLOPS), PARAMS // 2)),
    )


def search_details(**changes: Any) -> SearchDetails:
    """Of twenty candidates; ``changes`` are fields."""
    candidates = changes.pop("candidates", judged())
    best = min(range(len(candidates)), key=lambda k: candidates[k].error, default=0)
    known: dict[str, Any] = {
        "proxy": "hypernet", "target": "flops:0.5", "kind": "flops", "low": LOW, "high": HIGH,
        "generations": 1 + max((one.generation for one in candidates), default=-1),
        "scales": SCALES, "images": IMAGES, "standard_error": 0.5 / IMAGES**0.5,
        "calibration": 640, "hypernet_parameters": 1_250_000,
        "seconds": {"proxy": 65.0, "search": 40.0, "training": 90.5}, "widths": rows(),
        "candidates": candidates,
        "uniform": Candidate((20, 20, 20), UNIFORM, 0.31, 0.49, 0.49, 0.5), "best": best,
        "front": (), "trained": trained_networks(), "epochs": 30,
    }  # fmt: skip
    return SearchDetails(**{**known, **changes})


def with_front(found: SearchDetails) -> SearchDetails:
    """The same with costs over a wide range, and the front of them."""
    rng = np.random.default_rng(1)
    spread = [0.15 + 0.35 * float(rng.random()) for _ in found.candidates]
    candidates = tuple(
        replace(one, cost=cost, flops=cost, error=one.error + 0.4 * (0.5 - cost) ** 1.5)
        for one, cost in zip(found.candidates, spread, strict=True)
    )
    front = tuple(
        place
        for place, one in enumerate(candidates)
        if not any(
            other.error <= one.error and other.flops <= one.flops and other != one
            for other in candidates
        )
    )
    best = min(front, key=lambda place: candidates[place].error)
    return replace(found, candidates=candidates, front=front, best=best, low=0.125)


def searched(found: SearchDetails | None = None, **changes: Any) -> Result:
    """A network of the widths that were found, trained beside uniform ones."""
    found = found or search_details()
    steps = [StepRecord(0, "hypernetwork", 65.0, 8)]
    for k in range(found.generations):
        before = [1 - one.error for one in found.candidates if one.generation <= k]
        own = [1 - one.error for one in found.candidates if one.generation == k]
        figures = {"proxy_top1": max(before), "proxy_top1_mean": sum(own) / len(own)}
        steps.append(StepRecord(1 + k, f"generation {1 + k}", 2.0, figures={**figures}))
    if found.uniform is not None:
        figures = {"proxy_top1_uniform": 1 - found.uniform.error}
        steps.append(StepRecord(len(steps), "uniform widths", 0.5, figures={**figures}))
    for one in found.trained:
        reached = {f"top1_{one.name}": one.measurement.val_top1}
        name = f"training of {one.name} widths"
        steps.append(StepRecord(len(steps), name, 45.0, found.epochs, figures=reached))
    model = found.trained[0].measurement if found.trained else None
    known: dict[str, Any] = {
        "reference": measurement(None), "model": model, "steps": tuple(steps),
        "settings": {"proxy": found.proxy, "target": found.target}, "sizes": ("target",),
        "details": {"search": to_json(found)},
    }  # fmt: skip
    return make("metaprune", **{**known, **changes})

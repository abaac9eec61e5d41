from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def _metrics(top1: float | None, flops: int, params: int, latency: float) -> dict[str, Any]:
    return {
        "top1": top1,
        "top5": None if top1 is None else min(1.0, top1 + 0.015),
        "val_top1": None if top1 is None else top1 - 0.005,
        "val_top5": None if top1 is None else min(1.0, top1 + 0.01),
        "flops": flops,
        "macs": flops // 2,
        "params": params,
        "weights": params - params // 1000,
        "size_mb": params * 4 / 1e6,
        "latency_ms": latency,
    }


def _stage(k: int, layer: str, flops: int, params: int, recalibrated: bool) -> dict[str, Any]:
    wave = (k * 37 % 11) / 100
    return {
        "index": k,
        "name": layer,
        "layers": [layer],
        "epochs": 1,
        "seconds": 3.25,
        "compression_rate": 1 - flops / 30_940_000_000,
        "flops": flops,
        "macs": flops // 2,
        "params": params,
        "weights": params - params // 1000,
        "size_mb": params * 4 / 1e6,
        "latency_ms": 20.0 - k / 10,
        "top1_plain": 0.80 - 2 * wave,
        "top5_plain": 0.90 - wave,
        "top1_recalibrated": 0.88 - wave if recalibrated else None,
        "top5_recalibrated": 0.95 - wave if recalibrated else None,
        "top1": 0.975 - wave / 8 - k / 2500,
        "top5": 0.99,
    }


@pytest.fixture
def make_result() -> Callable[..., dict[str, Any]]:
    """A factory of results in the schema of result.json: the same arguments, the same numbers."""

    def make(stages: int = 6, recalibrated: bool = True, **changes: Any) -> dict[str, Any]:
        flops0, params0 = 30_940_000_000, 138_340_000
        records, layers = [], []
        for k in range(stages):
            layer = (
                f"features.{3 * k}"
                if stages <= 13
                else f"layer{1 + k // 14}.{k % 14}.conv{k % 2 + 1}"
            )
            share = 1 - 0.69 * ((k + 1) / stages) ** 0.8
            records.append(
                _stage(
                    k, layer, int(flops0 * share), int(params0 * (0.6 + 0.4 * share)), recalibrated
                )
            )
            width = 64 * 2 ** min(3, k * 4 // stages)
            layers.append(
                {
                    "stage": k,
                    "layer": layer,
                    "filters_before": width,
                    "filters_after": int(width * 0.3),
                    "ratio": 0.3,
                    "kept": list(range(int(width * 0.3))),
                    "flops_before": flops0 // stages,
                    "flops_after": flops0 // stages // 4,
                    "params_before": params0 // stages,
                    "params_after": params0 // stages // 4,
                    "rows": 4096,
                    "error": 0.21 + k / 1000,
                    "error_corrected": 0.14 + k / 1000,
                }
            )
        last = records[-1] if records else {"flops": flops0, "params": params0}
        result = {
            "format": 1,
            "method": "prune",
            "name": "vgg16-digits-thinet",
            "model": "vgg16",
            "dataset": "digits",
            "criterion": "thinet",
            "reconstruction": "scale",
            "schedule": "layerwise",
            "ratio": 0.3,
            "seed": 0,
            "note": None,
            "config": {
                "model": {"name": "vgg16", "image_size": 224},
                "layers": ["features.*"],
                "empty": {},
            },
            "environment": {"python": "3.11.2", "torch": "2.11.0", "device": "cpu, 2 cores"},
            "seconds": 754.0,
            "baseline": _metrics(0.9889, flops0, params0, 21.0),
            "slim": _metrics(0.9769, last["flops"], last["params"], 12.0),
            "before_finetuning": {
                "plain": {"top1": 0.284, "top5": 0.71},
                "recalibrated": {"top1": 0.662, "top5": 0.943} if recalibrated else None,
            },
            "stages": records,
            "layers": layers,
        }
        return {**result, **changes}

    return make

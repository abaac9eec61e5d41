"""What ``method=binarize`` leaves, with the numbers of a small VGG on 32 x 32 pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.report.conftest import make, measurement
from thinet.base.records import to_json
from thinet.report.courses import LOGGED
from thinet.report.sections.quantization import LayerBits, QuantizationDetails, Speed
from thinet.run.result import Measurement, Result, StepRecord

WIDTHS = ((3, 128, 32), (128, 128, 32), (128, 256, 16), (256, 256, 16), (256, 512, 8),
          (512, 512, 8))  # fmt: skip
"""Channels in and out and the side of the output of each convolution."""
NORMS = 2 * sum(width for _, width, _ in WIDTHS)
ORDERS = {"xnor": 1, "horq2": 2, "horq3": 3}
FIRST, LAST = "the first layer reads the image", "the last layer makes the logits"
EPOCHS = (4, 6)


def layers(order: int) -> tuple[LayerBits, ...]:
    found = []
    for k, (before, width, side) in enumerate(WIDTHS):
        weights, outputs = 9 * before * width, width * side**2
        if k:
            macs, bits = (order + 1) * outputs, weights + 32 * width
            own = (bits, order * weights * side**2, 2 * macs)
        else:
            own = (32 * weights, 0, 2 * weights * side**2)
        found.append(LayerBits(f"features.{3 * k}", "conv 3x3", "" if k else FIRST, weights, *own))
    last = LayerBits("classifier", "linear", LAST, 5120, 32 * 5130, 0, 2 * 5120)
    return (*found, last)


def costs(of_layers: tuple[LayerBits, ...], **changes: Any) -> Measurement:
    flops = sum(one.flops for one in of_layers)
    weights = sum(one.weights for one in of_layers)
    bits = sum(one.bits for one in of_layers) + 32 * NORMS
    known = {"weights": weights, "binary_ops": sum(one.binary_ops for one in of_layers),
             "bits": bits, "size_mb": bits / 8 / 2**20, **changes}  # fmt: skip
    top1 = known.pop("top1", 0.9)
    return measurement(top1, flops, weights + 10 + NORMS, **known)


def full_precision(**changes: Any) -> Measurement:
    side = dict(zip((f"features.{3 * k}" for k in range(6)), (s for *_, s in WIDTHS), strict=True))
    plain = tuple(
        replace(one, bits=32 * (one.weights + 10 * (one.kind == "linear")), binary_ops=0,
                flops=2 * one.weights * side.get(one.layer, 1) ** 2)
        for one in layers(1)
    )  # fmt: skip
    return costs(plain, **{"top1": 0.9312, "latency_ms": 9.4, **changes})


def details(order: int = 2, **changes: Any) -> QuantizationDetails:
    name = next(name for name, of_it in ORDERS.items() if of_it == order)
    speeds = tuple(
        Speed(name, milliseconds / threads**power, threads)
        for threads in (1, 2)
        for name, milliseconds, power in (
            ("PyTorch, full precision", 9.4, 0.8), ("PyTorch, from the bits", 10.8, 0.8),
            ("OpenVINO, full precision", 5.1, 0.9), ("OpenVINO, 1 bit", 0.7 + 0.45 * order, 0.5),
        )
    )  # fmt: skip
    known: dict[str, Any] = {
        "norms_added": 0, "relus_removed": 5, "bytes_full": 18_361_344, "bytes_packed": 663_104,
        "layers": layers(order), "factor": 29.9, "speeds": speeds, "deployed_difference": 3.2e-6,
    }  # fmt: skip
    return QuantizationDetails(name, order, "sample", **{**known, **changes})


def binarized(
    order: int = 2, top1: float | None = 0.9187, found: QuantizationDetails | None = None,
    **changes: Any,
) -> Result:  # fmt: skip
    """A VGG with binary layers beside the one in full precision."""
    found = found or details(order)
    model = costs(found.layers, top1=top1, latency_ms=10.8)
    steps = tuple(
        StepRecord(k, name, 61.0, epochs,
                   figures={"top1": None if top1 is None else top1 - 0.02 + k / 100, "top5": 0.99})
        for k, (name, epochs) in enumerate(zip(("activations", "weights"), EPOCHS, strict=True))
    )  # fmt: skip
    known: dict[str, Any] = {
        "reference": full_precision(), "model": model, "steps": steps, "network": "vgg_binary",
        "dataset": "cifar10", "name": f"vgg_binary-cifar10-binarize-{found.quantizer}",
        "settings": {"quantizer": found.quantizer, "binary_training": "two_step"},
        "reference_is": "full precision", "details": {"quantization": to_json(found)},
    }  # fmt: skip
    return make("binarize", **{**known, **changes})


def log(folder: Path, before: int = 3) -> Path:
    """What such a run logs: a training of the network in full precision first."""
    lines = ["step,train/loss,train/lr,val/top1,val/top5,stage/top1"]
    for k in range(1, before + sum(EPOCHS) + 1):
        own = k - before
        top1 = 0.5 + 0.1 * k if own <= 0 else 0.92 - 0.3 / own
        lines += [f"{10 * k},,,{top1:.4f},0.99,", f"{10 * k - 5},,0.01,,,",
                  f"{10 * k},{2.0 / max(own, 0.5):.4f},,,,"]  # fmt: skip
    lines.insert(4, "20,,,,,0.5")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOGGED).write_text("\n".join(lines) + "\n")
    return folder

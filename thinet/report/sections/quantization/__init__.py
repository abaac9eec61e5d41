"""What binarisation leaves: which layers have bits, what that is worth on disk and in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from thinet.report import numbers
from thinet.report.courses import LOSS, last_epochs
from thinet.report.sections.base import Plot, Section, Width, Widths
from thinet.report.sections.quantization.details import (
    KEY,
    LayerBits,
    Part,
    QuantizationDetails,
    Speed,
    parts,
)
from thinet.report.sections.quantization.figures import (
    sizes_figure,
    speeds_figure,
    training_figure,
)
from thinet.report.table import Table, subject

__all__ = ["KEY", "LayerBits", "Quantization", "QuantizationDetails", "Speed"]

CONDITION = (
    "the formula of the paper, in which 64 one-bit operations take as long as one in floating "
    "point: no SIMD in the baseline"
)
"""What the theoretical factor holds for; it is never told without."""


@dataclass(frozen=True)
class Quantization(Section[QuantizationDetails]):
    """The section of binarisation: layers, bits, operations and speeds."""

    key: ClassVar[str] = KEY
    kind: ClassVar[type[object]] = QuantizationDetails

    def lines(self) -> Sequence[str]:
        """What became binary, what that is worth on disk and in time, in theory and measured."""
        found = self.found
        return [
            _binarised(found),
            *_converted(found),
            _on_disk(found),
            f"in theory {found.factor:.1f}x faster in the binary layers, by {CONDITION}",
            _deployed(found),
        ]

    def tables(self) -> Sequence[Table]:
        """Speeds, where the bits are, and all layers."""
        found = self.found
        tables = [_speeds_table(found)] if found.speeds else []
        if where := self._parts():
            tables.append(_parts_table(where))
        return [*tables, _layers_table(found)] if found.layers else tables

    def plots(self) -> Sequence[Plot]:
        """Bits and operations before and after; speeds."""
        found, about = self.found, subject(self.result)
        plots = []
        if where := self._parts():
            reference, final = self.result.reference, self.result.final
            plots.append(
                Plot(
                    "quantization_sizes",
                    "Bytes of the parameters and multiply-accumulates of one image, in full "
                    "precision and binary: operations on single bits and on floating-point "
                    "numbers are added up for their number, not for their time.",
                    partial(sizes_figure, where, reference, final, found.order, about),
                )
            )
        if found.speeds:
            plots.append(
                Plot(
                    "quantization_speeds",
                    "Median time of one image, measured. The theoretical factor is another "
                    f"thing: {found.factor:.1f}x in the binary layers alone, by {CONDITION}.",
                    partial(speeds_figure, found.speeds, found.factor, about),
                )
            )
        return plots

    def logged(self, folder: Path) -> Sequence[Plot]:
        """Loss and accuracy over the epochs of all steps of the training."""
        steps = [(step.name, step.epochs) for step in self.result.steps if step.epochs]
        values = last_epochs(folder, sum(epochs for _, epochs in steps))
        if LOSS not in values:
            return []
        of_reference = self.result.reference.val_top1
        draw = partial(training_figure, values, steps, of_reference, subject(self.result))
        caption = "Training loss and accuracy on validation images after each epoch."
        return [Plot("quantization_training", caption, draw)]

    def widths(self) -> Widths | None:
        """Bits a weight in every layer."""
        return Widths({one.layer: _width(one) for one in self.found.layers},
                      "bits a weight")  # fmt: skip

    def _parts(self) -> list[Part]:
        if not self.found.layers:
            return []
        return parts(self.found, self.result.final.bits, self.result.reference.bits)


def _width(one: LayerBits) -> Width:
    if one.binary:
        return Width(1 / 32, "1", "weights of 1 bit")
    return Width(1.0, "32", f"in floating point: {one.reason}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number:,} {what}s"


def _binarised(found: QuantizationDetails) -> str:
    all_weights = sum(one.weights for one in found.layers)
    share = sum(one.weights for one in found.binary) / all_weights if all_weights else 0.0
    text = (
        f"{found.quantizer}: weights of 1 bit, activations of {_count(found.order, 'bit')}, "
        f"{found.scale} scales, in {len(found.binary)} of {_count(len(found.layers), 'layer')} "
        f"with {numbers.percent(share, 1)} of the weights"
    )
    reasons: dict[str, list[str]] = {}
    for one in found.floating:
        reasons.setdefault(one.reason, []).append(one.layer)
    kept = "; ".join(f"{_named(layers)} ({reason})" for reason, layers in reasons.items())
    return f"{text}; in floating point {kept}" if kept else text


def _named(layers: Sequence[str], most: int = 3) -> str:
    """A few layers by their names, more by their number."""
    return ", ".join(layers) if len(layers) <= most else _count(len(layers), "layer")


def _converted(found: QuantizationDetails) -> list[str]:
    changes = []
    if found.norms_added:
        changes.append(f"{_count(found.norms_added, 'BatchNorm')} added in front of binary layers")
    if found.relus_removed:
        changes.append(f"{_count(found.relus_removed, 'ReLU')} taken from in front of them")
    return [f"signs need both signs: {', '.join(changes)}"] if changes else []


def _on_disk(found: QuantizationDetails) -> str:
    change = numbers.change(found.bytes_full, found.bytes_packed, "smaller", "larger")
    return (
        f"file of weights {numbers.data(found.bytes_full)} → {numbers.data(found.bytes_packed)}: "
        f"{change}"
    )


_FULL = ("PyTorch, full precision", "OpenVINO, full precision")
"""What times are set against."""


def _deployed(found: QuantizationDetails) -> str:
    if found.deployed_difference is None:
        return (
            "not run by OpenVINO, and from the bits PyTorch is no faster: "
            f"{found.why_not_deployed.rstrip('.')}"
        )
    return (
        f"OpenVINO computes what the trained network does: outputs within "
        f"{found.deployed_difference:.1e} of the largest"
    )


def _speeds_table(found: QuantizationDetails) -> Table:
    times = {(one.name, one.threads): one.latency_ms for one in found.speeds}
    bases = [base for base in _FULL if any(one.name == base for one in found.speeds)]

    def against(base: str, one: Speed) -> str:
        if one.name == base:
            return "–"
        return numbers.change(times.get((base, one.threads)), one.latency_ms, "faster", "slower")

    rows = tuple(
        (
            one.name,
            str(one.threads),
            numbers.milliseconds(one.latency_ms),
            *(against(base, one) for base in bases),
        )
        for one in found.speeds
    )
    heads = ("", "threads", "one image", *(f"against {base}" for base in bases))
    note = f"Medians. In theory {found.factor:.1f}x in the binary layers, by {CONDITION}."
    return Table("Measured speed", heads, rows, note, brief=True, leading=True)


def _parts_table(where: Sequence[Part]) -> Table:
    def row(name: str, full: int, bits: int, total: int) -> tuple[str, ...]:
        share = numbers.percent(bits / total, 1) if total else numbers.MISSING
        full_text = numbers.data(full / 8) if full else "–"
        return (name, full_text, numbers.data(bits / 8), share)

    total = sum(one.bits for one in where)
    rows = [row(one.name, one.full, one.bits, total) for one in where]
    rows.append(row("all parameters", sum(one.full for one in where), total, total))
    heads = ("", "in full precision", "binary", "of all")
    note = (
        "What the parameters take where each has as many bits as it needs; a file also holds "
        "running statistics and names. Biases of binary layers stand with the factors of the "
        "binary network and with the rest in full precision."
    )
    return Table("Where the bits are", heads, tuple(rows), note)


def _layers_table(found: QuantizationDetails) -> Table:
    rows = tuple(
        (
            one.layer,
            one.kind,
            numbers.human(one.weights),
            numbers.data(one.bits / 8),
            numbers.human(one.binary_ops) if one.binary_ops else "–",
            numbers.human(one.flops) if one.flops else "–",
            f"1 × {_count(found.order, 'bit')}" if one.binary else f"float: {one.reason}",
        )
        for one in found.layers
    )
    heads = (
        "layer",
        "kind",
        "weights",
        "parameters take",
        "binary operations",
        "FLOPs",
        "computes with",
    )
    note = (
        "A layer of 1 × K bits has weights of 1 bit and activations of K. What is left to it in "
        "floating point scales and adds its K binary sums."
    )
    return Table("Layers", heads, rows, note)

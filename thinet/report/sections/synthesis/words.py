"""The terms that images are drawn for and learnt by: what they are called, and their ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from thinet.report import numbers, style
from thinet.report.sections.synthesis.details import SynthesisDetails


@dataclass(frozen=True)
class Term:
    """How a figure of an epoch is shown.

    Attributes:
        title: What it is.
        color: In all figures.
        weight: Its name among the weights; empty if it has none.
        percent: Whether it is a fraction.
    """

    title: str
    color: str
    weight: str = ""
    percent: bool = False


LOSS, AGREEMENT, GENERATOR = "train/loss", "train/agreement", "train/generator"
TERMS = {
    "train/one_hot": Term("one-hot", style.VERMILLION, "one_hot"),
    "train/activation": Term("activation", style.GREEN, "activation"),
    "train/entropy": Term("information entropy", style.PURPLE, "entropy"),
    "train/batchnorm": Term("BatchNorm statistics", style.ORANGE, "batchnorm"),
    "train/adversarial": Term("adversarial", style.SKY, "adversarial"),
    GENERATOR: Term("generator, all terms weighted", style.MUTED),
    LOSS: Term("student", style.BLUE),
    AGREEMENT: Term("same class as the teacher", style.BLUE, percent=True),
}
"""By the names under which they are logged, in the order in which they are shown."""


def least(name: str, found: SynthesisDetails) -> str:
    """What a term reaches at best; a dash where it has no end, or nobody knows it."""
    if name == AGREEMENT:
        return numbers.percent(1.0, 0)
    if name == "train/entropy" and found.classes:
        return f"{least_entropy(found):.3f}"
    return "0" if name in ("train/one_hot", "train/batchnorm", LOSS) else "–"


def least_entropy(found: SynthesisDetails) -> float:
    """What the term of entropy is where all classes are equally frequent."""
    count = len(found.classes)
    logarithm = math.log(count) / math.log(found.base)
    return -logarithm / (count if found.entropy_reduction == "mean" else 1)


def taught_by(found: SynthesisDetails) -> list[str]:
    """Whom the student learned from, on how many images, and what these were drawn for."""
    how = {"together": "in turn with the student", "generator_first": "before the student"}
    learnt = (
        f"soft targets at temperature {found.temperature:g}"
        if found.learn == "kl"
        else "the teacher's logits (L1)"
    )
    return [
        f"{found.student} taught by {found.teacher} through {learnt} on {found.images:,} drawn "
        f"images in {found.iterations:,} iterations; generator of "
        f"{found.generator_parameters:,} parameters, trained "
        f"{how.get(found.mode, found.mode)}",
        f"drawn for {_weighted(found)}",
    ]


def _weighted(found: SynthesisDetails) -> str:
    """The weighted terms, each with what its weight means nothing without."""
    base = "e" if math.isclose(found.base, math.e, rel_tol=1e-6) else f"{found.base:g}"
    of_term = {
        "entropy": f" (base {base}, {found.entropy_reduction} over classes)",
        "activation": f" ({found.activation_reduction} over features)",
    }
    titles = {term.weight: term.title for term in TERMS.values() if term.weight}
    return " + ".join(
        f"{weight:g} × {titles.get(name, name)}{of_term.get(name, '')}"
        for name, weight in found.weights.items()
        if weight
    )

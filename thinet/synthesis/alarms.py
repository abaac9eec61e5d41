"""Signs that a training without data goes wrong, each with what to change."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from thinet.report.sections.synthesis import EpochRow
from thinet.synthesis.settings import Synthesis

LOW, ALONE = 0.9, 0.02
"""Shares of the largest entropy: of few classes, of one class."""
SAME, LEARNT, SWING = 0.05, 0.01, 0.02
"""Spread of images; loss of the student; spread of accuracies."""
LAST = 0.1
"""Part of the epochs over which accuracies are compared."""


def find_alarms(rows: Sequence[EpochRow], settings: Synthesis, ended: bool) -> list[str]:
    """One sentence for each sign.

    Source: the authors' issues on class balance and swings; Chen et al. 2019.

    Args:
        rows: Of the epochs so far.
        settings: Of the training.
        ended: Whether it was the last epoch: a beginning may be unbalanced, and accuracies are
            compared over the last epochs alone.
    """
    found = list[str]()
    if ended or _settled(rows[-1], settings):
        found.append(_imbalance(rows[-1], settings))
    if ended:
        found.append(_swing(rows))
    return [sentence for sentence in found if sentence]


def find_collapse(rows: Sequence[EpochRow], settings: Synthesis) -> str:
    """A sentence if a generator draws but one image, or images of one class alone for three epochs
    and after half of the training: it does not come back from there. Else nothing.

    Source: the authors' issues on MNIST: the student's loss falls to 0, all images are equal; and
    their ablation, where nothing is learnt without the information entropy.

    Args:
        rows: Of the epochs so far; without a loss of a student, if none was trained beside the
            generator.
        settings: Of the training.
    """
    row, last = rows[-1], rows[-3:]
    if len(last) == 3 and _settled(row, settings) and all(one.balance < ALONE for one in last):
        return f"the generator has collapsed: {_of_few_classes(row, settings)}"
    loss = row.figures.get("train/loss")
    if row.spread >= SAME or (loss is not None and loss >= LEARNT):
        return ""
    left = "" if loss is None else f" and nothing is left to learn (loss {loss:.4f})"
    pool = "" if loss is None else " or synthesis.memory.pool=4096"
    return (
        f"the generator has collapsed: the images of epoch {row.epoch} are all alike (spread "
        f"{row.spread:.3f} of 1){left}; type another seed, synthesis.generator.lr=1e-3{pool}."
    )


def _settled(row: EpochRow, settings: Synthesis) -> bool:
    """Whether it is late enough: a beginning may be unbalanced."""
    return row.epoch > settings.course.epochs // 2


def _imbalance(row: EpochRow, settings: Synthesis) -> str:
    return "" if row.balance >= LOW else _of_few_classes(row, settings)


def _of_few_classes(row: EpochRow, settings: Synthesis) -> str:
    weight = settings.losses.entropy
    most = max(range(len(row.classes)), key=row.classes.__getitem__)
    share = row.classes[most] / sum(row.classes)
    return (
        f"the images of epoch {row.epoch} are of few classes ({100 * share:.0f} % of them of class "
        f"{most}; entropy {row.balance:.2f} of 1): type "
        f"synthesis.losses.entropy={max(2 * weight, 5):g}, or a larger synthesis.course.batch_size."
    )


def _swing(rows: Sequence[EpochRow]) -> str:
    known = [row.figures["val/top1"] for row in rows if "val/top1" in row.figures]
    last = known[-max(3, round(LAST * len(known))) :]
    if len(last) < 3 or statistics.stdev(last) < SWING:
        return ""
    return (
        f"accuracy swings from {100 * min(last):.1f} to {100 * max(last):.1f} % in the last "
        f"{len(last)} epochs: type synthesis.student.decay=cosine, or a smaller "
        "synthesis.student.lr."
    )

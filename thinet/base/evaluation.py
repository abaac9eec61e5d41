"""How test images are evaluated, and what the figures are called wherever people see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

Evaluate = Literal["classification", "retrieval"]
CLASSIFICATION: Final = "classification"
RETRIEVAL: Final = "retrieval"

V = TypeVar("V")


@dataclass(frozen=True)
class Figure:
    """One figure of test images.

    Attributes:
        field: Of a measurement, of which only those of its evaluation are known.
        key: In files and on dashboards.
        name: For people.
    """

    field: str
    key: str
    name: str


@dataclass(frozen=True)
class Evaluation:
    """A way to evaluate test images. Validation images are always classified.

    Attributes:
        name: As ``evaluate`` has it.
        figures: What is measured; the first is what networks are compared by.
        quality: The first one along an axis.
        title: The first one at the head of a chart.
        lead: What the figures are, in half a sentence.
    """

    name: Evaluate
    figures: tuple[Figure, ...]
    quality: str
    title: str
    lead: str

    @property
    def main(self) -> Figure:
        """What networks are compared by."""
        return self.figures[0]

    def key(self, field: str) -> str:
        """How a figure is called in files and on dashboards: ``top1_cut`` becomes ``rank1_cut``."""
        for one in self.figures:
            if field == one.field or field.startswith(f"{one.field}_"):
                return one.key + field[len(one.field) :]
        return field

    def by_key(self, figures: Mapping[str, V]) -> dict[str, V]:
        """Figures by what they are called in files and on dashboards."""
        return {self.key(field): value for field, value in figures.items()}


EVALUATIONS: Mapping[str, Evaluation] = {
    one.name: one
    for one in (
        Evaluation(
            CLASSIFICATION,
            (Figure("top1", "top1", "top-1"), Figure("top5", "top5", "top-5")),
            "top-1 accuracy",
            "Accuracy",
            "accuracies on the test set",
        ),
        Evaluation(
            RETRIEVAL,
            (
                Figure("top1", "rank1", "rank-1"),
                Figure("top5", "rank5", "rank-5"),
                Figure("top10", "rank10", "rank-10"),
                Figure("mean_ap", "mAP", "mAP"),
            ),
            "rank-1 (Recall@1)",
            "Rank-1",
            "test images that find their like by the cosine of their features: among the first k "
            "(rank-1 is Recall@1), and mAP over the whole ranking",
        ),
    )
}

"""What ``method=sensitivity`` leaves: the accuracy of each layer at each ratio, a suggestion."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from thinet.base.errors import ThinetError
from thinet.report import numbers
from thinet.report.sections.base import Plot, Section, Width, Widths
from thinet.report.sections.sensitivity.figures import curves_figure, heatmap_figure
from thinet.report.sections.sensitivity.records import (
    Cell,
    Figures,
    SensitivityDetails,
    Trial,
    Tried,
    rows_of,
)
from thinet.report.table import Table, command, subject
from thinet.run.result import Result
from thinet.widths.ratio import SUGGESTION

__all__ = [
    "KEY",
    "Cell",
    "Figures",
    "Sensitivity",
    "SensitivityDetails",
    "Trial",
    "Tried",
    "feed_back",
    "suggestion_text",
]
KEY = "sensitivity"
COLUMNS = ("layer", "ratio", "kept", "units", "top1", "top1_drop", "top5", "divergence")
NOT_FED_BACK = ("method", "ratio", "target", "allocation", "name", "dry_run", "resume")


@dataclass(frozen=True)
class Sensitivity(Section[SensitivityDetails]):
    """The section of sensitivity: a table, two figures, and a file that ``ratio=@`` reads."""

    key: ClassVar[str] = KEY
    kind: ClassVar[type[object]] = SensitivityDetails

    def lines(self) -> Sequence[str]:
        """What the table means, how the suggestion does, and how to use it."""
        found = self.found
        treated = "with BatchNorm re-estimated" if found.recalibrated else "as cut"
        tried = "; ".join(
            f"{label} {numbers.percent(one.top1)} at {numbers.percent(one.flops, 1)} of the FLOPs"
            for label, one in (
                ("suggestion", found.trial.suggestion),
                ("one ratio for all", found.trial.uniform),
            )
        )
        return [
            f"{found.images} validation images, no fine-tuning, {treated}; full network "
            f"{numbers.percent(found.full.top1)}",
            f"all layers cut at once, validation top-1: {tried}",
            f"use the suggestion: {feed_back(self.result)}",
        ]

    def tables(self) -> Sequence[Table]:
        """Top-1 of every layer at every ratio, and what is suggested for it."""
        ratios = (f"{ratio:g}" for ratio in self.found.ratios)
        rows = tuple(
            (
                layer,
                *(numbers.percent(cell.top1).removesuffix(" %") for cell in row),
                f"{self.found.suggestion[layer]:.2f}",
            )
            for layer, row in rows_of(self.found.cells).items()
        )
        heads = ("top-1 in % with this layer cut to", *ratios, "suggested")
        return [Table("Sensitivity", heads, rows, brief=True)]

    def plots(self) -> Sequence[Plot]:
        """A curve for each layer, and all of them as a heat map."""
        about = subject(self.result)
        return [
            Plot(
                "sensitivity_curves",
                "Top-1 accuracy with one layer cut to a fraction of its filters and nothing "
                "fine-tuned, on validation images; each marker is a measurement.",
                lambda: curves_figure(self.found, about),
            ),
            Plot(
                "sensitivity_heatmap",
                "Points of top-1 accuracy lost by the same cuts, and the ratio suggested for each "
                "layer so that all together meet the budget.",
                lambda: heatmap_figure(self.found, about),
            ),
        ]

    def files(self) -> Mapping[str, str]:
        """``sensitivity.csv`` and the suggestion."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for cell in self.found.cells:
            writer.writerow({**vars(cell), "top1_drop": self.found.full.top1 - cell.top1})
        return {"sensitivity.csv": text.getvalue(), SUGGESTION: suggestion_text(self.found)}

    def widths(self) -> Widths | None:
        """The fraction suggested for every layer."""
        layers = {
            name: Width(
                share,
                f"{100 * share:.0f} %",
                f"{numbers.percent(share, 1)} suggested",
            )
            for name, share in self.found.suggestion.items()
        }
        return Widths(layers, "suggested")


def suggestion_text(found: SensitivityDetails) -> str:
    """The suggestion as YAML, with a comment that says where it comes from."""
    import yaml

    accuracies = ", ".join(
        f"{label} {numbers.percent(one.top1)}"
        for label, one in (
            ("these ratios", found.trial.suggestion),
            ("one ratio for all", found.trial.uniform),
        )
    )
    comment = (
        f"# The fraction of filters to keep in each layer within {found.budget}, for ratio=@.\n"
        f"# Validation top-1 without fine-tuning ({found.images} images): {accuracies}.\n"
    )
    return comment + str(yaml.safe_dump(found.suggestion, sort_keys=False, allow_unicode=True))


def feed_back(result: Result) -> str:
    """The command that prunes by the suggestion: the run's own with another method and ratio.

    Raises:
        ThinetError: If the run made no suggestion.
    """
    details = result.details.get(KEY)
    if not isinstance(details, dict) or "folder" not in details:
        raise ThinetError(f"{result.run.name} has no suggestion: give a run of method=sensitivity.")
    return command(result, NOT_FED_BACK, f"ratio=@{Path(str(details['folder'])) / SUGGESTION}")

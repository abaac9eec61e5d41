"""What ``method=sensitivity`` leaves beside its figures: the table, the suggestion, the summary.

All of it is made from the ``sensitivity`` part of a result.
"""

from __future__ import annotations

import csv
import io
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinet.base.files import write_text_atomic
from thinet.report import numbers
from thinet.report.results import command
from thinet.widths.ratio import SUGGESTION

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("layer", "ratio", "kept", "units", "top1", "top1_drop", "top5", "divergence")
NOT_FED_BACK = ("method", "ratio", "target", "allocation", "name", "dry_run", "resume")


def write_sensitivity(found: dict[str, Any], folder: str | Path) -> tuple[Path, Path]:
    """Write ``sensitivity.csv`` and the suggestion, which ``ratio=@`` reads, each atomically.

    Args:
        found: The ``sensitivity`` part of a result.
        folder: The run folder.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell in found["cells"]:
        writer.writerow({**cell, "top1_drop": found["full"]["top1"] - cell["top1"]})
    table = write_text_atomic(Path(folder) / "sensitivity.csv", text.getvalue())
    return table, write_text_atomic(Path(folder) / SUGGESTION, suggestion_text(found))


def suggestion_text(found: dict[str, Any]) -> str:
    """The suggestion as YAML, with a comment that says where it comes from."""
    import yaml

    trial = found["trial"]
    accuracies = ", ".join(
        f"{label} {numbers.percent(trial[key]['top1'])}"
        for label, key in (("these ratios", "suggestion"), ("one ratio for all", "uniform"))
    )
    comment = (
        f"# The fraction of filters to keep in each layer within {found['budget']}, for ratio=@.\n"
        f"# Validation top-1 without fine-tuning ({found['images']} images): {accuracies}.\n"
    )
    return comment + str(yaml.safe_dump(found["suggestion"], sort_keys=False, allow_unicode=True))


def feed_back(result: dict[str, Any]) -> str:
    """The command that prunes by the suggestion: the run's own with another method and ratio."""
    words = [
        word
        for word in shlex.split(command(result))
        if word.lstrip("+~").partition("=")[0].partition(".")[0] not in NOT_FED_BACK
    ]
    file = Path(str(result["sensitivity"]["folder"])) / SUGGESTION
    return shlex.join([*words, f"ratio=@{file}"])


def sensitivity_table(result: dict[str, Any]) -> Table:
    """Top-1 of every layer at every ratio, and what is suggested for it."""
    from rich.table import Table
    from rich.text import Text

    found = result["sensitivity"]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("top-1 in % with this layer cut to", overflow="fold")
    for ratio in found["ratios"]:
        table.add_column(f"{ratio:g}", justify="right", no_wrap=True)
    table.add_column("suggested", justify="right", no_wrap=True)
    for layer, row in rows_of(found).items():
        accuracies = [numbers.percent(cell["top1"]).removesuffix(" %") for cell in row]
        table.add_row(Text(layer), *accuracies, f"{found['suggestion'][layer]:.2f}")
    return table


def rows_of(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The cells of each layer, in order of execution, ratios falling."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for cell in found["cells"]:
        rows.setdefault(cell["layer"], []).append(cell)
    return rows


def sensitivity_lines(result: dict[str, Any]) -> list[str]:
    """What the table means, how the suggestion does, and how to use it."""
    found = result["sensitivity"]
    treated = "with BatchNorm re-estimated" if found["recalibrated"] else "as cut"
    trial = found["trial"]
    tried = "; ".join(
        f"{label} {numbers.percent(trial[key]['top1'])} at "
        f"{numbers.percent(trial[key]['flops'], 1)} of the FLOPs"
        for label, key in (("suggestion", "suggestion"), ("one ratio for all", "uniform"))
    )
    return [
        f"{found['images']} validation images, no fine-tuning, {treated}; full network "
        f"{numbers.percent(found['full']['top1'])}",
        f"all layers cut at once, validation top-1: {tried}",
        f"use the suggestion: {feed_back(result)}",
    ]

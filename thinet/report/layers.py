"""``layers.csv``: one row a pruned layer."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from thinet.base.files import write_text_atomic

COLUMNS = (
    "stage", "layer", "filters_before", "filters_after", "ratio", "flops_before", "flops_after",
    "params_before", "params_after", "rows", "error", "error_corrected", "kept",
)  # fmt: skip


def write_layers(result: dict[str, Any], folder: str | Path) -> Path:
    """Write the layer records of a result; kept filters are separated by spaces."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for layer in result.get("layers") or []:
        writer.writerow({**layer, "kept": " ".join(map(str, layer["kept"]))})
    return write_text_atomic(Path(folder) / "layers.csv", text.getvalue())

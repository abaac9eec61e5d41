from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thinet.report.layers import write_layers


def test_layers_csv_repeats_the_records(
    make_result: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    result = make_result(3)
    with write_layers(result, tmp_path).open() as file:
        rows = list(csv.DictReader(file))

    assert [row["layer"] for row in rows] == ["features.0", "features.3", "features.6"]
    for row, layer in zip(rows, result["layers"], strict=True):
        assert [int(index) for index in row["kept"].split()] == layer["kept"]
        assert float(row["error"]) == layer["error"]
        assert int(row["flops_after"]) == layer["flops_after"]

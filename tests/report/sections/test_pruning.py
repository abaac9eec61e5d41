from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from tests.report.conftest import cut, pruned, trained
from thinet.base.records import to_json
from thinet.report.sections import sections, write_files
from thinet.report.sections.pruning import Pruning, PruningDetails, whole_cuts

CSV = """\
stage,layer,filters_before,filters_after,ratio,flops_before,flops_after,params_before,params_after,rows,error,error_corrected,kept
0,features.0,64,2,0.3,30940000000,7735000000,138340000,34585000,,0.21,0.14,5 60
1,features.0,64,19,0.3,30940000000,7735000000,138340000,34585000,4096,0.21,0.14,0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18
"""  # noqa: E501


def test_layers_csv_to_the_byte(tmp_path: Path) -> None:
    first = replace(cut(0, "features.0", 1), filters_after=2, kept=(5, 60), rows=None)
    details = PruningDetails((first, replace(cut(0, "features.0", 1), stage=1)))
    result = trained(details={"pruning": to_json(details)})
    assert write_files(result, tmp_path) == [tmp_path / "layers.csv"]
    assert (tmp_path / "layers.csv").read_bytes() == CSV.encode()


def test_layers_csv_repeats_the_records(tmp_path: Path) -> None:
    result = pruned(3)
    write_files(result, tmp_path)
    with (tmp_path / "layers.csv").open() as file:
        rows = list(csv.DictReader(file))

    (section,) = sections(result)
    assert isinstance(section, Pruning)
    assert [row["layer"] for row in rows] == ["features.0", "features.3", "features.6"]
    for row, layer in zip(rows, section.found.layers, strict=True):
        assert tuple(int(index) for index in row["kept"].split()) == layer.kept
        assert float(row["error"]) == layer.error
        assert int(row["flops_after"]) == layer.flops_after


def test_a_layer_cut_twice_is_one_layer() -> None:
    first = cut(0, "features.0", 1)
    second = replace(first, stage=1, filters_before=19, filters_after=9, flops_before=7)

    (merged,) = whole_cuts([first, second])

    assert (merged.filters_before, merged.filters_after) == (64, 9)
    assert merged.flops_before == first.flops_before
    (table,) = Pruning(pruned(1), PruningDetails((first, second))).tables()
    assert table.rows[0][1:3] == ("64 → 9", "14.1 %")


def test_accuracies_before_finetuning() -> None:
    (section,) = sections(pruned(1))
    assert section.figures() == {"top1_cut": 0.284, "top1_recalibrated": 0.662}
    assert list(section.lines()) == [
        "before fine-tuning, without BatchNorm recalibration: top-1 28.40 %, top-5 71.00 %",
        "before fine-tuning, with BatchNorm recalibration: top-1 66.20 %, top-5 94.30 %",
    ]
    (section,) = sections(pruned(1, recalibrated=False))
    assert section.figures()["top1_recalibrated"] is None
    assert len(section.lines()) == 1

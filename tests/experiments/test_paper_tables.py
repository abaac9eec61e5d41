"""The paper's cost columns, and how finished runs fill in the others."""

from __future__ import annotations

import json

import pytest

from experiments.paper_tables.costs import cells, differing
from experiments.paper_tables.run import finished, lines, main, read_tables
from thinet.base.errors import ThinetError
from thinet.base.records import to_json
from thinet.run.result import Measurement, Result, RunRecord

TABLES = {table["name"]: table for table in read_tables()}


@pytest.mark.parametrize("name", TABLES)
def test_every_cost_is_the_papers_or_the_reason_is_given(name):
    table, computed = TABLES[name], 0
    for row in table["rows"]:
        assert set(differing(table, row)) == set(row.get("differs", {})), row["name"]
        own = cells(table, row)
        assert "reason" in row or all(own.values()), row["name"]
        computed += sum(own[key] == row["paper"].get(key) for key in own)
    assert computed >= len([row for row in table["rows"] if "reason" not in row and row["paper"]])


def test_no_recalled_figure_is_shown_as_if_it_were_read():
    for table in TABLES.values():
        printed = lines(table, [])
        for row, cells_ in zip(table["rows"], printed, strict=True):
            if "top1" in row["paper"]:
                assert ("recalled" in cells_[5]) == (row["status"] == "recalled")


@pytest.fixture
def run(tmp_path):
    """Writes the result of a run of ThiNet-50 with these changes."""
    table = TABLES["Table 3: ResNet-50 on ImageNet (stride in the 1x1 convolution)"]

    def write(seed, top1, criterion="thinet", resize="fixed"):
        from experiments.paper_tables.costs import planned

        before, after = (
            Measurement(
                **{key: one[key] for key in ("flops", "params", "weights")}, macs=one["flops"] // 2,
                size_mb=1.0, top1=of, top5=0.9,
            )
            for one, of in zip(
                planned(("experiment=thinet50_resnet50_imagenet",)), (0.73, top1), strict=True
            )
        )  # fmt: skip
        run = RunRecord(f"r{seed}", "prune", "resnet50_v1", "imagenet", seed, "python run.py", 1.0)
        result = Result(
            run, {"criterion": criterion}, (), {"resize": resize}, {}, before, "baseline", after,
            (), {}, {}, {},
        )  # fmt: skip
        (tmp_path / f"run{seed}").mkdir()
        (tmp_path / f"run{seed}" / "result.json").write_text(json.dumps(to_json(result)))

    return table, write


def test_runs_fill_in_their_row_with_mean_and_spread(run, tmp_path):
    table, write = run
    write(0, 0.70)
    write(1, 0.72)
    write(2, 0.99, criterion="random")
    rows = {row[0]: row for row in lines(table, finished([tmp_path]))}
    assert rows["ThiNet-50"][7] == "71.00 ± 1.41 (2 runs)"
    assert rows["original"][7] == "73.00 ± 0.00 (3 runs)"
    assert rows["ThiNet-70"][7] == rows["ThiNet-30"][7] == ""


def test_two_protocols_in_one_table_are_refused(run, tmp_path):
    table, write = run
    write(0, 0.70)
    write(1, 0.72, resize="keep")
    with pytest.raises(ThinetError, match="two evaluation protocols"):
        lines(table, finished([tmp_path]))


def test_the_command_prints_all_tables(tmp_path, capsys):
    assert main(["--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in TABLES)
    assert (tmp_path / "results.csv").read_text().count("\n") == 1 + sum(
        len(table["rows"]) for table in TABLES.values()
    )
    assert main(["--runs", str(tmp_path), "--out", str(tmp_path)]) == 2

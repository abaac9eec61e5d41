from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.report.conftest import pruned, scanned, trained, write_run
from thinet.base.records import to_json
from thinet.report.many.differences import differences, run_ranges, settings
from thinet.report.many.runs import gather
from thinet.report.many.widths import width_maps
from thinet.report.sections import sections
from thinet.report.sections.pruning import Pruning
from thinet.run.result import Result


def write(root: Path, name: str, result: Result) -> Path:
    return write_run(root / name, result)


def test_only_settings_that_differ_are_listed(tmp_path: Path) -> None:
    configs = [
        {"name": "a", "ratio": 0.5, "model": {"name": "m", "widths": [1, 2]}, "only": {"here": 1}},
        {"name": "b", "ratio": 0.5, "model": {"name": "m", "widths": [1, 3]}, "paths": {"o": "x"}},
        {"name": "c", "ratio": 0.7, "model": {"name": "m", "widths": [1, 3]}},
    ]
    folders = [write(tmp_path, config["name"], pruned(1, config=config)) for config in configs]
    other = pruned(1, config=configs[2], environment={"device": "another"})
    folders.append(write(tmp_path, "d", other))

    found = dict(differences(gather(folders)))

    assert found["ratio"] == [("0.5", "#1–2"), ("0.7", "#3–4")]
    assert found["model.widths"] == [("[1, 2]", "#1"), ("[1, 3]", "#2–4")]
    assert found["only.here"] == [("1", "#1"), ("not set", "#2–4")]
    assert found["environment.device"] == [("cpu, 2 cores", "#1–3"), ("another", "#4")]
    assert {"name", "model.name", "paths.o"}.isdisjoint(found)


def test_a_value_that_is_passed_on_shares_a_line(tmp_path: Path) -> None:
    configs = [{"seed": seed, "dataset": {"seed": seed}, "other": -seed} for seed in (0, 1)]
    folders = [write(tmp_path, str(c["seed"]), pruned(1, config=c)) for c in configs]
    found = differences(gather(folders))
    assert [key for key, _ in found] == ["seed, dataset.seed", "other"]


def test_a_long_value_is_cut() -> None:
    (text,) = settings(trained(config={"a": "x" * 1000}, images={}, environment={})).values()
    assert len(text) < 200


def test_run_numbers_are_written_shortly() -> None:
    assert run_ranges([7, 1, 2, 3, 9]) == "#1–3, #7, #9"


def test_a_key_that_a_method_does_not_read_is_no_difference(tmp_path: Path) -> None:
    same = {"model": {"name": "m"}}
    results = [pruned(1, config={**same, "ratio": 0.5}), trained(config=same)]
    folders = [write(tmp_path, str(k), result) for k, result in enumerate(results)]
    assert differences(gather(folders)) == []


def test_runs_with_the_same_widths_share_a_row(tmp_path: Path) -> None:
    same = [pruned(3), pruned(3, criterion="random")]
    other = pruned(3, ratio=0.5)
    (section,) = sections(other)
    assert isinstance(section, Pruning)
    first, second, third = section.found.layers
    layers = (
        first,
        replace(second, filters_before=100, filters_after=25),
        replace(third, layer="extra"),
    )
    other = replace(other, details={"pruning": to_json(replace(section.found, layers=layers))})
    results = [*same, other, scanned(3)]
    folders = [write(tmp_path, f"r{i}", result) for i, result in enumerate(results)]

    (found,) = width_maps(gather(folders))

    assert found.layers == ("features.0", "features.3", "features.6", "extra")
    assert found.full == (64, 100, 256, 256)
    assert [(row.label, row.runs) for row in found.rows] == [
        ("ratio 0.3", "#1–2"),
        ("ratio 0.5", "#3"),
        ("suggested", "#4"),
    ]
    cells = found.rows[1].cells
    assert (cells[1].text, cells[1].share) == ("25", 0.25)
    assert "100 → 25 filters, 25.0 %" in cells[1].title
    assert (cells[2].share, cells[2].text, cells[2].title) == (1.0, "256", "features.6: whole")
    suggested = found.rows[2].cells
    assert [cell.text for cell in suggested] == ["10 %", "40 %", "70 %", ""]
    assert "features.3: 40.0 % suggested" in suggested[1].title


def test_every_network_has_its_own_map(tmp_path: Path) -> None:
    folders = [
        write(tmp_path, model, pruned(stages, network=model))
        for model, stages in (("vgg16", 2), ("resnet56", 27))
    ]
    maps = {found.title: found for found in width_maps(gather(folders))}
    first, second = maps["vgg16 on digits"], maps["resnet56 on digits"]
    assert (first.dense, second.dense) == (False, True)
    assert len(second.layers) == 27


def test_damaged_layers_do_not_take_the_page_away(tmp_path: Path) -> None:
    folder = write(tmp_path, "a", trained(details={"pruning": {"layers": [{"layer": "x"}]}}))
    (entry,) = gather([folder])
    assert (entry.status, entry.widths) == ("complete", ())
    assert width_maps([entry]) == []

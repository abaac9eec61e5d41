from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thinet.report.comparison import differences, gather, run_ranges, settings, width_maps

Make = Callable[..., dict[str, Any]]


def write(root: Path, name: str, result: dict[str, Any]) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_only_settings_that_differ_are_listed(make_result: Make, tmp_path: Path) -> None:
    configs = [
        {"name": "a", "ratio": 0.5, "model": {"name": "m", "widths": [1, 2]}, "only": {"here": 1}},
        {"name": "b", "ratio": 0.5, "model": {"name": "m", "widths": [1, 3]}, "paths": {"o": "x"}},
        {"name": "c", "ratio": 0.7, "model": {"name": "m", "widths": [1, 3]}},
    ]
    folders = [write(tmp_path, config["name"], make_result(1, config=config)) for config in configs]
    other = make_result(1, config=configs[2], environment={"device": "another"})
    folders.append(write(tmp_path, "d", other))

    found = dict(differences(gather(folders)))

    assert found["ratio"] == [("0.5", "#1–2"), ("0.7", "#3–4")]
    assert found["model.widths"] == [("[1, 2]", "#1"), ("[1, 3]", "#2–4")]
    assert found["only.here"] == [("1", "#1"), ("not set", "#2–4")]
    assert found["environment.device"] == [("cpu, 2 cores", "#1–3"), ("another", "#4")]
    assert {"name", "model.name", "paths.o"}.isdisjoint(found)


def test_a_value_that_is_passed_on_shares_a_line(make_result: Make, tmp_path: Path) -> None:
    configs = [{"seed": seed, "dataset": {"seed": seed}, "other": -seed} for seed in (0, 1)]
    folders = [write(tmp_path, str(c["seed"]), make_result(1, config=c)) for c in configs]
    found = differences(gather(folders))
    assert [key for key, _ in found] == ["seed, dataset.seed", "other"]


def test_a_long_value_is_cut(make_result: Make) -> None:
    (text,) = settings({"config": {"a": "x" * 1000}}).values()
    assert len(text) < 200


def test_run_numbers_are_written_shortly() -> None:
    assert run_ranges([7, 1, 2, 3, 9]) == "#1–3, #7, #9"


def test_runs_with_the_same_widths_share_a_row(make_result: Make, tmp_path: Path) -> None:
    same = [make_result(3), make_result(3, criterion="random")]
    other = make_result(3, ratio=0.5)
    other["layers"][1] |= {"filters_before": 100, "filters_after": 25}
    other["layers"][2] |= {"layer": "extra"}
    folders = [write(tmp_path, f"r{i}", result) for i, result in enumerate([*same, other])]

    (found,) = width_maps(gather(folders))

    assert found["layers"] == ["features.0", "features.3", "features.6", "extra"]
    labels = [(row["label"], row["runs"]) for row in found["rows"]]
    assert labels == [
        ("0.3", "#1–2"),
        ("0.5", "#3"),
    ]
    cells = found["rows"][1]["cells"]
    assert (cells[1]["text"], cells[1]["share"]) == ("25", 0.25)
    assert "100 → 25 filters, 25.0 %" in cells[1]["title"]
    assert cells[2] == {"share": 1.0, "text": "256", "title": "features.6: whole"}


def test_every_network_has_its_own_map(make_result: Make, tmp_path: Path) -> None:
    folders = [
        write(tmp_path, model, make_result(stages, model=model))
        for model, stages in (("vgg16", 2), ("resnet56", 27))
    ]
    first, second = width_maps(gather(folders))
    assert (first["title"], second["title"]) == ("vgg16 on digits", "resnet56 on digits")
    assert (first["dense"], second["dense"]) == (False, True)
    assert len(second["layers"]) == 27


def test_damaged_layers_do_not_take_the_page_away(make_result: Make, tmp_path: Path) -> None:
    folder = write(tmp_path, "a", make_result(1, layers=[{"layer": "x"}]))
    (entry,) = gather([folder])
    assert entry.widths == {}
    assert width_maps([entry]) == []

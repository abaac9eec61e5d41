from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thinet.base.errors import ThinetError
from thinet.report import results

Make = Callable[..., dict[str, Any]]


def test_read_result_takes_the_folder_or_the_file(make_result: Make, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(make_result()))

    assert results.read_result(tmp_path) == make_result()
    assert results.read_result(tmp_path / "result.json") == make_result()


@pytest.mark.parametrize("content", ["[]", '{"format": 1}', "{", None])
def test_read_result_refuses_what_is_no_result(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(ThinetError, match=r"result\.json"):
        results.read_result(tmp_path)


def test_read_result_names_another_format(make_result: Make, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(make_result(format=2)))
    with pytest.raises(ThinetError, match="format 2"):
        results.read_result(tmp_path)


def test_headline(make_result: Make) -> None:
    result = make_result()
    result["slim"]["flops"] = 9_340_000_000

    assert results.headline(result) == "98.89 % top-1 → 97.69 % top-1 at 3.31x fewer FLOPs"
    assert results.headline({**result, "slim": None}) == "98.89 % top-1, 30.94 B FLOPs"


def test_compare_states_both_networks_and_the_change(make_result: Make) -> None:
    lines = {line.label: line for line in results.compare(make_result())}

    assert lines["top-1"].change == "-1.20 points"
    assert (lines["latency"].baseline, lines["latency"].slim) == ("21.00 ms", "12.00 ms")
    assert lines["latency"].change == "1.75x faster"
    assert lines["FLOPs"].baseline == "30.94 B"


def test_a_layer_slimmed_twice_is_one_layer(make_result: Make) -> None:
    first = make_result(1)["layers"][0]
    second = {**first, "stage": 1, "filters_before": 19, "filters_after": 9, "flops_before": 7}

    (merged,) = results.pruned_layers({"layers": [first, second]})

    assert (merged["filters_before"], merged["filters_after"]) == (64, 9)
    assert merged["flops_before"] == first["flops_before"]
    assert (first["filters_after"], second["filters_before"]) == (19, 19)  # inputs are left alone


def test_command(make_result: Make) -> None:
    rebuilt = results.command(make_result(ratio={"features.*": 0.5}))

    assert rebuilt.startswith("python run.py method=prune model=vgg16 dataset=digits")
    assert "'ratio={features.*:0.5}' seed=0" in rebuilt
    assert results.command(make_result(command="python run.py -m")) == "python run.py -m"


def test_peak_memory_is_that_of_the_hungriest_stage(make_result: Make) -> None:
    result = make_result(3)
    assert results.peak_memory(result) == ""  # of a run by an earlier version
    for stage, used in zip(result["stages"], (500.4, 812.6, 30.0), strict=True):
        stage |= {"peak_memory_mb": used, "peak_memory_of": "process" if used > 100 else "GPU"}
    assert results.peak_memory(result) == "813 MB at most (process)"

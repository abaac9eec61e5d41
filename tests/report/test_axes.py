from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.report.conftest import measurement, pruned, scanned, scratch, toy, trained
from thinet.report.axes import AXES, axes
from thinet.run.result import Measurement


def keys(*results: Any) -> list[str]:
    return [axis.key for axis in axes(results)]


def test_an_axis_is_a_cost_in_which_model_and_reference_differ() -> None:
    assert keys(pruned()) == ["flops", "params", "latency_ms"]
    assert keys(trained(), scanned()) == []
    assert keys(trained(), scratch()) == ["flops", "params"]
    assert keys(toy()) == ["bits", "binary_ops", "flops"]  # with as many parameters
    assert keys(toy(), pruned()) == ["bits", "binary_ops", "flops", "params", "latency_ms"]


@pytest.mark.parametrize("key", [axis.key for axis in AXES])
def test_any_cost_alone_is_an_axis(key: str) -> None:
    before = measurement(0.9, binary_ops=1000)
    after = replace(before, **{key: type(getattr(before, key))(getattr(before, key) / 2)})
    result = replace(toy(), reference=before, model=after)
    assert keys(result) == [key]
    (axis,) = axes([result])
    assert axis.removed(result) == pytest.approx(0.5)
    assert axis.change(before, after).startswith("2.00x ")


def test_bytes_that_follow_the_parameters_are_drawn_once() -> None:
    result = pruned()
    assert result.model is not None
    assert "size_mb" not in keys(result)
    halves = replace(result, model=replace(result.model, size_mb=result.model.size_mb / 2))
    assert "size_mb" in keys(halves)


def test_a_latency_is_drawn_even_where_it_falls_as_the_operations_do() -> None:
    before = measurement(0.9)
    after = replace(before, flops=before.flops // 2, latency_ms=21.0 / 2)
    assert keys(replace(toy(), reference=before, model=after)) == ["flops", "latency_ms"]


def test_what_is_not_known_is_no_number() -> None:
    (bits,) = [axis for axis in AXES if axis.key == "bits"]
    (operations,) = [axis for axis in AXES if axis.key == "binary_ops"]
    nothing = Measurement(1, 1, 1, 1, 1.0)
    assert bits.of(nothing) is None
    assert operations.of(nothing) == 0
    result = toy()
    assert operations.removed(result) is None  # of none nothing can be removed
    assert operations.removed(trained()) == 0
    nan = replace(trained(), reference=measurement(0.9, latency_ms=float("nan")))
    assert AXES[-1].of(nan.reference) is None

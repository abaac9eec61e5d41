"""From measured losses to ratios."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thinet.pruning.suggestion import directions, loss_curve, loss_curves, short_ratio
from thinet.report.sections.sensitivity import Cell, Figures
from thinet.widths.ratio import kept_count


def test_a_curve_goes_through_what_was_measured():
    curve = loss_curve(10, {9: 0.01, 5: 0.1, 1: 1.0}, 2.3)
    assert curve[[9, 5, 1]] == pytest.approx([0.01, 0.1, 1.0])
    assert curve[10] == 0
    assert curve[0] == pytest.approx(2.3)
    assert curve[7] == pytest.approx(math.sqrt(0.01 * 0.1)), "half way in the logarithm"


def test_fewer_units_never_lose_less():
    rng = np.random.default_rng(0)
    for _ in range(50):
        units = int(rng.integers(2, 40))
        counts = rng.integers(0, units + 1, 5)
        curve = loss_curve(units, {int(n): float(rng.exponential()) for n in counts}, 2.3)
        assert curve.shape == (units + 1,)
        assert np.isfinite(curve).all()
        assert (np.diff(curve) <= 1e-12).all()


def test_noise_below_what_can_be_measured_is_no_loss():
    curve = loss_curve(8, {6: 0.0, 4: 0.0, 2: 0.5}, 2.3)
    assert curve[6] == curve[4] == pytest.approx(1e-6)


@pytest.mark.parametrize("units", [1, 3, 7, 16, 48, 64, 100, 512, 2048])
def test_a_short_ratio_keeps_just_as_many(units):
    for count in range(1, units + 1):
        ratio = short_ratio(count, units)
        assert kept_count(units, ratio) == count
        assert 0 < ratio <= 1
        assert len(f"{ratio:.10g}") <= 6


def test_a_short_ratio_is_short():
    assert short_ratio(32, 64) == 0.5
    assert short_ratio(7, 16) == 0.44
    assert short_ratio(16, 16) == 1.0


def test_directions_lean_over_the_depth_first_and_then_on_single_layers():
    names = ["a", "b", "c"]
    (early, first), (late, second), *single = directions(names)
    assert early == "early layers count more"
    assert late == "late layers count more"
    assert [first[name] for name in names] == pytest.approx([2, 1, 0.5])
    assert [second[name] for name in names] == pytest.approx([0.5, 1, 2])
    assert [weights for _, weights in single] == [
        {"a": 2.0}, {"a": 0.5}, {"b": 2.0}, {"b": 0.5}, {"c": 2.0}, {"c": 0.5},
    ]  # fmt: skip
    assert directions(["only"])[0][1] == {"only": 2.0}


def test_without_a_unit_every_way_charges_what_guessing_costs():
    cells = [Cell("a", 0.5, kept=4, units=8, top1=0.7, top5=0.9, divergence=0.04)]
    ways = loss_curves(cells, {"a": 8}, 50, Figures(0.9, 1.0, 0.0), chance=20)
    ends = {way: (curves["a"][0], curves["a"][4], curves["a"][8]) for way, curves in ways.items()}
    nats = math.log(20)
    assert ends["divergence"] == pytest.approx((nats, 0.04, 0))
    assert ends["root of divergence"] == pytest.approx((math.sqrt(nats), 0.2, 0))
    assert ends["errors"] == pytest.approx((0.95, 0.2 + 0.01, 0))

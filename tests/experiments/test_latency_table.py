"""Figures of the study of latency tables."""

from __future__ import annotations

import pytest

from experiments.latency_table import run


def row(measured, predicted, undisturbed=1):
    return {
        "network": "x", "size": 8, "measured_ms": measured, "predicted_ms": predicted,
        "error": predicted / measured - 1, "undisturbed": undisturbed, "table_seconds": 2.0,
    }  # fmt: skip


def test_what_is_said_of_a_network(tmp_path):
    rows = [row(1.0, 1.1), row(2.0, 1.9), row(4.0, 1.0, undisturbed=0), row(1.01, 1.0)]
    found = run.summary(rows)
    assert found["vectors"] == 4
    assert found["clean"] == 3
    assert found["worst"] == pytest.approx(0.75)
    assert found["clean_worst"] == pytest.approx(0.1)
    assert found["mean"] == pytest.approx((0.1 + 0.05 + 0.75 + 0.01 / 1.01) / 4)
    # Five of six pairs are apart, and three of these have the third, which is predicted fastest.
    assert found["order"] == pytest.approx(2 / 5)
    assert run.in_order([row(1, 1)]) == 1
    slow = run.summary([row(2.0, 1.0), row(4.0, 2.0), row(8.0, 4.4)])
    assert slow["share"] == pytest.approx(0.1 / 3)
    assert slow["share_worst"] == pytest.approx(0.1)

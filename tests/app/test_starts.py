"""A run of two processes that is told to end, or loses one, while the two find each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.start_kills.run import SMALL, disturb


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("name", "target", "moment"),
    [
        ("SIGTERM", "first", "the second loads torch"),  # the first waits for it
        ("SIGTERM", "second", "the second answers signals"),
        ("SIGKILL", "first", "the second loads torchvision"),
    ],
)
def test_none_is_left_and_the_code_is_as_documented(name, target, moment, tmp_path):
    row = disturb(tmp_path / "run", name, target, moment, SMALL)
    assert row["as_documented"], (row, (tmp_path / "run.log").read_text())
    text = (tmp_path / "run.log").read_text()
    assert text.count("stopped by SIGTERM: type the same command again") == (name == "SIGTERM")

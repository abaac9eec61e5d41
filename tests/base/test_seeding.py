"""Derived seeds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import thinet
from thinet.base.seeding import derive_seed


def test_seeds_fit_and_differ():
    seeds = [derive_seed(run, what, k) for run in range(10) for what in "ab" for k in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**61  # the range is used


def test_parts_are_kept_apart():
    spellings = [("ab", "c"), ("a", "bc"), ("abc",), (1, 2), (12,), ("1", "2"), (), ("",)]
    assert len({derive_seed(*parts) for parts in spellings}) == len(spellings)


def test_seeds_are_the_same_in_every_process_and_version():
    # Written down, because a change would make finished runs resume with other draws.
    assert derive_seed(0, "stage", 3) == 2459323203338185848
    code = "from thinet.base.seeding import derive_seed; print(derive_seed(0, 'stage', 3))"
    root = str(Path(thinet.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": "77"}
    printed = subprocess.check_output([sys.executable, "-c", code], env=environment)
    assert int(printed) == derive_seed(0, "stage", 3)

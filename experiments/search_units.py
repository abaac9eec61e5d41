"""The studies of searched widths as a list of units, that several processes share.

Every unit leaves one JSON file, so that a study that was stopped goes on where it was. A process
takes the first unit that is not there, that nobody works on and whose needs are there.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.cifar import append_row
from experiments.search import (
    ARMS,
    FULL,
    HYPERNET,
    PROXIES,
    PRUNE,
    RANDOM,
    SHARED,
    THINET,
    TUNED,
    UNIFORM,
    Study,
)
from thinet.base.files import write_json_atomic

TABLES = {
    "results": ("final-", "full-"), "longer": ("longer-",), "searches": ("search-",),
    "vectors": ("vector-",), "proxies": ("proxy-",), "judged": ("judged-",),
}  # fmt: skip
"""Of CSV files the units whose results they hold."""
TIMES = 2
"""How many times as many epochs the longer trainings have."""
ENOUGH = 12
"""Random widths that come first."""


@dataclass(frozen=True)
class Unit:
    """Something to measure.

    Attributes:
        name: Of its file.
        needs: Units whose files it reads.
        measure: What it leaves.
    """

    name: str
    needs: tuple[str, ...]
    measure: Callable[[], dict[str, Any]]


def units(study: Study, budgets: Sequence[float], seeds: Sequence[int]) -> list[Unit]:
    """What to measure, in an order that leaves a study worth reading wherever it is stopped.

    Args:
        study: Of which.
        budgets: Fractions of the FLOPs; the random widths have the first one.
        seeds: Of final trainings.
    """
    first, *others = budgets
    start = [Unit("full-0", (), partial(study.train_full, 0))]
    start += [Unit(f"proxy-{one}", (), partial(study.train_proxy, one))
              for one in (HYPERNET, SHARED)]  # fmt: skip
    found = [*start, *_searches(study, first), *_finals(study, first, seeds[:1])]
    found += [Unit(f"judged-{one}", _behind(one), partial(study.judged, one, first))
              for one in PROXIES]  # fmt: skip
    vectors = _vectors(study, first, 0)
    found += vectors[:ENOUGH] + _finals(study, first, seeds[1:])
    again = vectors[ENOUGH:] + _vectors(study, first, 1) + _longer(study, first, seeds)
    for place, budget in enumerate(others):
        found += _searches(study, budget) + _finals(study, budget, seeds)
        found += again if place == 0 else []
    found += again if not others else []
    return found + [Unit(f"full-{one}", (), partial(study.train_full, one)) for one in seeds if one]


def _behind(arm: str) -> tuple[str, ...]:
    """What has to be trained before an arm can search."""
    if arm in (HYPERNET, RANDOM):
        return (f"proxy-{HYPERNET}",)
    return {SHARED: (f"proxy-{SHARED}",), UNIFORM: ()}.get(arm, (f"{FULL}-0",))


def _searches(study: Study, budget: float) -> list[Unit]:
    arms = (HYPERNET, PRUNE, SHARED, RANDOM)
    found = [Unit(f"search-{arm}-{budget}", _behind(arm), partial(study.search, arm, budget))
             for arm in arms]  # fmt: skip
    found.append(Unit(f"search-{UNIFORM}-{budget}", (), partial(study.even, budget)))
    needs = _behind(THINET)
    return [*found, Unit(f"search-{THINET}-{budget}", needs, partial(study.thinet, budget))]


def _finals(study: Study, budget: float, seeds: Sequence[int]) -> list[Unit]:
    searched = {arm: f"search-{THINET if arm == TUNED else arm}-{budget}" for arm in ARMS}
    return [
        Unit(f"final-{arm}-{budget}-{seed}", (searched[arm],),
             partial(study.final, arm, budget, seed))
        for seed in seeds for arm in ARMS
    ]  # fmt: skip


def _longer(study: Study, budget: float, seeds: Sequence[int]) -> list[Unit]:
    """Trained for as many epochs as ThiNet's network, the full network's counted too."""
    return [
        Unit(f"longer-{arm}-{budget}-{seed}", (f"search-{arm}-{budget}",),
             partial(study.final, arm, budget, seed, TIMES))
        for seed in seeds for arm in (UNIFORM, THINET, PRUNE, HYPERNET, SHARED)
    ]  # fmt: skip


def _vectors(study: Study, budget: float, seed: int) -> list[Unit]:
    return [Unit(f"vector-{k}-{budget}-{seed}", (), partial(study.vector, k, budget, seed))
            for k in range(study.sizes.vectors)]  # fmt: skip


def fill(folder: Path, todo: Sequence[Unit]) -> None:
    """Measure what is missing, beside other processes that do the same."""
    torch.backends.mkldnn.deterministic = True
    while missing := [one for one in todo if not _path(folder, one.name).exists()]:
        ready = [one for one in missing
                 if all(_path(folder, need).exists() for need in one.needs)]  # fmt: skip
        if not any(_measure(folder, one) for one in ready):
            time.sleep(2)  # the others are at work on all that could be done


def _measure(folder: Path, unit: Unit) -> bool:
    """Measure a unit unless another process does; whether that was so."""
    with _claimed(folder / f"{unit.name}.lock") as mine:
        path = _path(folder, unit.name)
        if not mine or path.exists():
            return False
        start = time.monotonic()
        found = unit.measure()
        write_json_atomic(path, found)
        short = {key: one for key, one in found.items() if not isinstance(one, (dict, list))}
        print(f"{time.strftime('%H:%M:%S')} {unit.name} {time.monotonic() - start:.0f} s {short}",
              flush=True)  # fmt: skip
    return True


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Whether this process holds a lock, which a killed one no longer does."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def collect(study: Study, todo: Sequence[Unit], out: Path) -> None:
    """Write what there is into CSV files; lists and widths as words."""
    for table, starts in TABLES.items():
        path = out / f"{table}.csv"
        path.unlink(missing_ok=True)
        for unit in todo:
            if unit.name.startswith(starts) and _path(study.folder, unit.name).exists():
                append_row(path, _row(table, study.read(unit.name)))


def _row(table: str, found: dict[str, Any]) -> dict[str, Any]:
    def flat(value: Any) -> Any:
        if isinstance(value, dict):
            value = list(value.values())
        return " ".join(f"{one:.6g}" for one in value) if isinstance(value, list) else value

    row = {key: flat(value) for key, value in found.items()}
    if table == "searches":
        keys = ("arm", "budget", "counts", "error", "uniform_error", "evaluations",
                "prepare_seconds", "search_seconds", "best")  # fmt: skip
        row = {key: row.get(key, "") for key in keys}
    return row


def make_parser(description: str | None, out: Path) -> argparse.ArgumentParser:
    """The arguments that the studies take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.25, 0.1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=out, help="where tables and figures go")
    parser.add_argument("--work", type=Path, default=Path("outputs") / out.name)
    parser.add_argument("--draw", action="store_true", help="of what is there, no more")
    return parser

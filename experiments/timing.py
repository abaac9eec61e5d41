"""What the speed studies share: taking turns, ratios within a round, tables.

A machine drifts: it gets warm, and others use it. So whatever is compared takes turns, ratios are
taken between neighbours in time, and the median of many ratios is what a study reports.
"""

from __future__ import annotations

import csv
import gc
import io
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from thinet.base.files import write_text_atomic
from thinet.metrics.memory import resident_peak_mb

Times = dict[str, list[float]]
Row = dict[str, Any]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """``count`` threads for torch and for numpy's BLAS, which has threads of its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


def take_turns(
    tasks: Mapping[str, Callable[[], object]],
    rounds: int,
    patience: float = float("inf"),
    least: int = 3,
    warm_up: int = 1,
    finish: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
    hold_garbage: bool = True,
) -> Times:
    """Seconds of each task, one measurement a round.

    The order of a round is that of the one before, moved on by one, so that no task always follows
    the same neighbour.

    Args:
        tasks: What to time, by name.
        rounds: At most so many.
        patience: Seconds after which no new round begins, once there are ``least``.
        least: Rounds there are in any case, or ``rounds`` if that is fewer.
        warm_up: Rounds before that are not timed.
        finish: Called after each task within its time: waits for a device that works on its own.
        clock: Tells seconds.
        hold_garbage: Collect garbage before a round and not within one; False for tasks that make
            so many objects that collecting them is a part of their cost.

    Returns:
        For each task the seconds of every round; entries of one place belong to one round.
    """
    names = list(tasks)
    for _ in range(warm_up):
        for name in names:
            tasks[name]()
    finish()
    times: Times = {name: [] for name in names}
    with _no_garbage() if hold_garbage else nullcontext():
        begin = clock()
        for turn in range(rounds):
            if turn >= least and clock() - begin > patience:
                break
            if hold_garbage:
                gc.collect()
            for place in range(len(names)):
                name = names[(turn + place) % len(names)]
                start = clock()
                tasks[name]()
                finish()
                times[name].append(clock() - start)
    return times


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Nothing is collected inside by itself; ``gc.collect()`` looks at what is new and is quick."""
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()


def ratios(times: Times, over: str, under: str) -> list[float]:
    """``over / under`` of every round."""
    return [a / b for a, b in zip(times[over], times[under], strict=True)]


def ratio(times: Times, over: str, under: str) -> float:
    """Median over the rounds of ``over / under``."""
    return statistics.median(ratios(times, over, under))


def spread(times: Times, over: str, under: str) -> float:
    """Half the distance between the quartiles of ``over / under``; 0 from fewer than 4 rounds."""
    found = ratios(times, over, under)
    if len(found) < 4:
        return 0.0
    low, _, high = statistics.quantiles(found, n=4)
    return (high - low) / 2


def synchroniser(device: torch.device) -> Callable[[], object]:
    """What waits until a device has done its work."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def peak_gib() -> float | None:
    """Most memory that this process has held since ``forget_peak()``, in GiB; None if unknown."""
    peak = resident_peak_mb()
    return None if peak is None else peak * 1e6 / 2**30


def hardware(device: torch.device, count: int) -> str:
    """The machine in a few words, for figures and tables."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    words = f"CPU, {count} thread" + ("s" if count > 1 else "")
    return f"{words}, {torch.backends.cpu.get_cpu_capability()}"


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a CSV file with a header, by way of a temporary file beside it.

    Args:
        path: The file.
        rows: With the same keys each; floats are written with five figures.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    write_text_atomic(path, text.getvalue())


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.5g}"
    return "" if value is None else value


def markdown(rows: Iterable[Row], columns: Mapping[str, str]) -> str:
    """A markdown table.

    Args:
        rows: What to show.
        columns: From the keys of the rows to the titles of the columns, in order; a title may end
            in ``|`` and a format, for example ``ratio|.2f``.
    """
    titles = [title.partition("|")[0] for title in columns.values()]
    formats = [title.partition("|")[2] for title in columns.values()]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in rows:
        cells = [_cell(row.get(key), how) for key, how in zip(columns, formats, strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: Any, how: str) -> str:
    if value is None or value == "":
        return ""
    return format(value, how) if isinstance(value, float) else str(value)


def default_threads() -> int:
    """One thread a core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def furthest(left: nn.Module, right: nn.Module) -> float:
    """Largest difference of two networks' weights, over the largest weight."""
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    far = max(float((a - b).detach().abs().max()) for a, b in pairs)
    return far / max(float(parameter.detach().abs().max()) for parameter in left.parameters())

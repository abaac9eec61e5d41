"""A latency table that was measured before is used again where it fits."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from torch import nn

from thinet.base.errors import ThinetError
from thinet.metrics.latency_table import (
    LatencyTable,
    check_conditions,
    read_table,
    write_table,
)
from thinet.metrics.latency_timing import Tell, Widths, conditions_of, measure_latency
from thinet.surgery import ChannelGraph


def given_table(
    path: str | Path, network: nn.Module, widths: Widths, shape: tuple[int, ...],
    *, batch: int = 1, setting: str = "table", advice: str | None = None,
) -> LatencyTable:  # fmt: skip
    """A table that the user names.

    Args:
        path: Its file.
        network: Whose latency is asked for, where it will run.
        widths: Units that groups may keep.
        shape: ``(C, H, W)``.
        batch: Images a pass.
        setting: It was given in, as messages call it.
        advice: What to type instead, for messages; None to measure one.

    Raises:
        ThinetError: If it is none, or was measured on another machine, for another network or for
            other layers, in one sentence that says which.
    """
    named = f"{setting}={path}" if advice is None else f"the latency table {path}"
    advice = advice or f"type {setting}=null to measure one here"
    if not Path(path).is_file():
        raise ThinetError(f"{named} is not there: {advice}.")
    table = read_table(path)
    check_conditions(table, conditions_of(network, shape, batch), named, advice)
    missing = _missing(table, widths)
    if missing is not None:
        raise ThinetError(f"{named} says nothing of {missing}: {advice}.")
    return table


def kept_table(
    folder: Path, network: nn.Module, graph: ChannelGraph, widths: Widths, shape: tuple[int, ...],
    *, batch: int = 1, levels: int = 11, tell: Tell | None = None,
) -> LatencyTable:  # fmt: skip
    """The table that lies in a folder for this network, machine and widths, or a new one.

    Args:
        folder: Of caches; the file is named by what it holds for.
        network: Whose latency is asked for, where it will run.
        graph: Its trace.
        widths: Units that groups may keep.
        shape: ``(C, H, W)``.
        batch: Images a pass.
        levels: See :func:`thinet.metrics.measure_latency`.
        tell: Takes what there is to say.
    """
    here = conditions_of(network, shape, batch)
    asked = sorted((name, tuple(choice)) for name, choice in widths.items())
    digest = hashlib.sha256(f"{here}{asked}{levels}".encode()).hexdigest()[:16]
    path = folder / f"latency-{digest}.json"
    with contextlib.suppress(ThinetError):  # missing, or from another version: measured anew
        table = read_table(path)
        if table.conditions == here and _missing(table, widths) is None:
            if tell is not None:
                tell(f"{table} ({path})")
            return table
    table = measure_latency(
        network, widths, shape, graph=graph, batch=batch, levels=levels, tell=tell
    )
    write_table(path, table)
    return table


def _missing(table: LatencyTable, widths: Widths) -> str | None:
    """What a table does not hold of some widths."""
    for name, choice in widths.items():
        if name not in table.full:
            return f"the widths of {name}"
        if min(choice) < table.least[name] or max(choice) > table.full[name]:
            return f"{name} with {min(choice)} to {max(choice)} channels"
    return None

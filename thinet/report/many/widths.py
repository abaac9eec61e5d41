"""What is left of each layer in many runs, as heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thinet.report.many.differences import run_ranges
from thinet.report.many.runs import Entry
from thinet.report.sections import Widths

DENSE = 24
"""Layers from which on there is no room for numbers."""


@dataclass(frozen=True)
class MapCell:
    """One layer of one row; ``share`` in [0, 1] is its shade."""

    share: float
    text: str
    title: str


@dataclass(frozen=True)
class MapRow:
    """Runs with the same widths."""

    label: str
    runs: str
    cells: tuple[MapCell, ...]


@dataclass(frozen=True)
class WidthMap:
    """The runs of one network; ``full`` are its own widths, as far as known."""

    title: str
    layers: tuple[str, ...]
    full: tuple[int | None, ...]
    rows: tuple[MapRow, ...]

    @property
    def dense(self) -> bool:
        """Whether there is no room for numbers."""
        return len(self.layers) > DENSE


Known = tuple[Entry, Widths]


def width_maps(entries: Sequence[Entry]) -> list[WidthMap]:
    """One heat map for each network: a row for every set of widths, a column for every layer.

    Runs with the same widths share a row, so that a sweep of criteria is not one map many times.
    """
    maps: dict[tuple[str, str], list[Known]] = {}
    for one in entries:
        for widths in one.widths:
            if widths.layers:
                key = (one.names["model"], one.names["dataset"])
                maps.setdefault(key, []).append((one, widths))
    several = len(maps) > 1
    return [
        _map(f"{model} on {dataset}" if several else "", known)
        for (model, dataset), known in maps.items()
    ]


def _map(title: str, known: Sequence[Known]) -> WidthMap:
    layers = tuple(dict.fromkeys(layer for _, widths in known for layer in widths.layers))
    full = {
        layer: width.full
        for _, widths in known
        for layer, width in widths.layers.items()
        if width.full is not None
    }
    alike: dict[tuple[object, ...], list[Known]] = {}
    for one, widths in known:
        alike.setdefault((tuple(widths.layers.items()), widths.label), []).append((one, widths))
    columns = tuple(full.get(layer) for layer in layers)
    rows = tuple(_row(group, layers, columns) for group in alike.values())
    return WidthMap(title, layers, columns, rows)


def _row(group: Sequence[Known], layers: Sequence[str], full: Sequence[int | None]) -> MapRow:
    widths = group[0][1]
    cells = []
    for layer, whole in zip(layers, full, strict=True):
        if width := widths.layers.get(layer):
            cells.append(MapCell(width.share, width.text, f"{layer}: {width.title}"))
        else:  # shares say nothing of a layer that they do not name
            text = str(whole) if whole and not widths.label else ""
            cells.append(MapCell(1.0 if text else 0.0, text, f"{layer}: whole"))
    sizes = {one.size for one, _ in group}
    label = widths.label or (sizes.pop() if len(sizes) == 1 else "several")
    return MapRow(label, run_ranges(one.number for one, _ in group), tuple(cells))

"""What a cut takes away, as pictures: filters, activation maps, the error it leaves behind.

Drawn from plain arrays while the run is under way, since the full layer is gone afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thinet.report import numbers, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.floating[Any]]
FOLDER = "inspect"
INSPECTION = (
    "what the kept and the removed channels show for one image (one scale for both blocks), and "
    "where the output of the next layer has changed: squared error in percent of its mean square, "
    "after the reconstruction and before any fine-tuning."
)
SHOWN = 32
"""Tiles in each of the two blocks."""
ACROSS, TILE, GAP = 8, 0.46, 0.3
"""Tiles in a row, and in inches the side of a tile and the room between blocks."""
PICTURE = 1.75
"""Side of the pictures below the blocks, in inches."""


@dataclass(frozen=True)
class View:
    """What there is to see of the cut of one layer, or of one group of coupled layers.

    Attributes:
        layer: Its name.
        kept: Of each channel, whether it stays: bool ``(channels,)``.
        image: A real image, ``(H, W, 3)`` or ``(H, W)``, in [0, 1].
        maps: The channels for that image, ``(channels, h, w)``, or None if they have no extent.
        filters: Of a layer that reads the image itself, ``(channels, k, k, 3)`` or
            ``(channels, k, k)``; else None.
        reader: The next layer, whose error is shown.
        error: Its squared error at each location relative to the mean square of its output,
            averaged over images and outputs: ``(h, w)``; None if the layer has no locations.
        image_error: The same for the image shown.
        relative_error: The mean of ``error``.
        images: Images behind ``error``.
    """

    layer: str
    kept: NDArray[np.bool_]
    image: Floats
    maps: Floats | None
    filters: Floats | None
    reader: str
    error: Floats | None
    image_error: Floats | None
    relative_error: float
    images: int


def picture_of(layer: str, figures: str | Path) -> Path:
    """Where the picture of a layer lies in a run's folder of figures, if it was drawn."""
    return Path(figures) / FOLDER / f"{layer}.png"


def save_inspection(view: View, figures: str | Path) -> Path:
    """Draw a view and write it into a run's folder of figures, atomically."""
    figure = inspection_figure(view)
    return style.save_png(figure, picture_of(view.layer, figures))


def inspection_figure(view: View) -> Figure:
    """Blocks of kept (blue frame) and removed (red frame) tiles, and pictures of the error."""
    from matplotlib.figure import Figure

    blocks: list[tuple[str, Floats, float | None]] = []
    if view.filters is not None:
        blocks.append(("filters", tiles_of_filters(view.filters), None))
    if view.maps is not None:
        blocks.append(("activation maps", view.maps, _top(view.maps)))
    rows = max(_rows(view.kept), _rows(~view.kept))
    block = 0.34 + rows * TILE
    width = 0.3 + 2 * ACROSS * TILE + GAP
    height = 0.62 + len(blocks) * (block + 0.12) + 0.42 + PICTURE + 0.12
    figure = Figure(figsize=(width, height), dpi=style.DPI, facecolor="white")
    count, total = int(view.kept.sum()), len(view.kept)
    title = f"{_short(view.layer)}: {count} of {total} channels kept"
    figure.text(0.15 / width, 1 - 0.12 / height, title,
                size=12.5, weight="bold", color=style.INK, va="top")  # fmt: skip
    figure.text(0.15 / width, 1 - 0.4 / height, _subtitle(view), size=9, color=style.MUTED,
                va="top")  # fmt: skip
    top = 0.62
    for what, tiles, scale in blocks:
        for place, (title, mask, color) in enumerate(
            (("kept", view.kept, style.BLUE), ("removed", ~view.kept, style.VERMILLION))
        ):
            left = 0.15 + place * (ACROSS * TILE + GAP)
            ax = _axes(figure, left, top + 0.3, ACROSS * TILE, rows * TILE)
            _block(ax, tiles[mask], rows, scale, color)
            shown = min(int(mask.sum()), SHOWN)
            text = f"{title} {what}: {_how_many(shown, int(mask.sum()))}"
            ax.set_title(text, size=9, color=color, loc="left", pad=3)
        top += block + 0.12
    _pictures(figure, view, top + 0.3)
    return figure


def tiles_of_filters(filters: Floats) -> Floats:
    """Each filter stretched to [0, 1] by its own least and largest weight; a flat one is grey."""
    flat = filters.reshape(len(filters), -1)
    low, high = flat.min(axis=1), flat.max(axis=1)
    span = np.where(high > low, high - low, 1.0)
    shape = (len(filters),) + (1,) * (filters.ndim - 1)
    tiles = (filters - low.reshape(shape)) / span.reshape(shape)
    return np.where((high > low).reshape(shape), tiles, 0.5)


def mosaic(tiles: Floats, rows: int, across: int = ACROSS) -> NDArray[np.float64]:
    """Tiles ``(n, h, w[, 3])`` in rows on a ground of not-a-number, with a line between them.

    Returns:
        ``(rows * (h + line) - line, across * (w + line) - line[, 3])``. The line is a twelfth of a
        tile, at least one pixel; small tiles are enlarged to make it thin.
    """
    scale = max(1, math.ceil(24 / max(tiles.shape[1:3]))) if len(tiles) else 1
    big = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = big.shape[1:3]
    line = max(1, width // 12)
    full = (rows * (height + line) - line, across * (width + line) - line, *big.shape[3:])
    canvas = np.full(full, np.nan)
    for place, tile in enumerate(big[: rows * across]):
        y, x = divmod(place, across)
        y, x = y * (height + line), x * (width + line)
        canvas[y : y + height, x : x + width] = tile
    return canvas


def _short(name: str, most: int = 40) -> str:
    """The end of a very long name, which tells layers apart."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _rows(mask: NDArray[np.bool_]) -> int:
    return max(1, math.ceil(min(int(mask.sum()), SHOWN) / ACROSS))


def _how_many(shown: int, there: int) -> str:
    if shown == there:
        return str(there)
    return f"{shown} of {there}, {there - shown} not shown"


def _top(maps: Floats) -> float:
    """The upper end of the common scale: a single bright pixel must not darken all the rest."""
    return max(float(np.quantile(maps, 0.998)), 1e-12)


def _subtitle(view: View) -> str:
    error = numbers.percent(view.relative_error)
    return (
        f"{_short(view.reader)} reads them: squared error of its output {error}, before fine-tuning"
    )


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes without ticks at a place given in inches from the upper left corner."""
    full_width, full_height = figure.get_size_inches()
    ax = figure.add_axes(
        (left / full_width, 1 - (top + height) / full_height, width / full_width,
         height / full_height)
    )  # fmt: skip
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def _block(ax: Axes, tiles: Floats, rows: int, scale: float | None, color: str) -> None:
    for spine in ax.spines.values():
        spine.set(color=color, linewidth=1.6)
    if not len(tiles):
        ax.text(0.5, 0.5, "none", ha="center", va="center", color=style.MUTED,
                transform=ax.transAxes)  # fmt: skip
        return
    canvas = mosaic(tiles[:SHOWN], rows)
    if canvas.ndim == 3:  # colours know no missing value
        canvas = np.where(np.isnan(canvas), 1.0, canvas)
        ax.imshow(canvas, aspect="auto", interpolation="nearest")
    else:
        ax.imshow(canvas, aspect="auto", interpolation="nearest", vmin=0, vmax=scale or 1.0,
                  cmap="gray" if scale is None else "magma")  # fmt: skip


def _pictures(figure: Figure, view: View, top: float) -> None:
    """The image, the error on average and the error for this image, with one colour scale."""
    ax = _axes(figure, 0.15, top, PICTURE, PICTURE)
    ax.imshow(view.image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    _caption(ax, "the image")
    if view.error is None or view.image_error is None:
        width, height = figure.get_size_inches()
        figure.text((PICTURE + 0.45) / width, 1 - (top + PICTURE / 2) / height,
                    f"{_short(view.reader)} is a linear layer: its error has no locations.",
                    size=9, color=style.MUTED, va="center")  # fmt: skip
        return
    both = [(f"error, mean of {view.images} images", view.error),
            ("error for this image", view.image_error)]  # fmt: skip
    highest = max(100 * float(np.quantile(part, 0.998)) for _, part in both)
    for place, (title, part) in enumerate(both):
        ax = _axes(figure, 0.15 + (place + 1) * (PICTURE + 0.28), top, PICTURE, PICTURE)
        shown = ax.imshow(100 * part, cmap="magma", vmin=0, vmax=max(highest, 1e-9),
                          interpolation="nearest")  # fmt: skip
        _caption(ax, title)
    bar = _axes(figure, 0.15 + 3 * (PICTURE + 0.28) - 0.14, top, 0.13, PICTURE)
    scale = figure.colorbar(shown, cax=bar)
    scale.outline.set_visible(False)  # type: ignore[operator]
    bar.tick_params(labelsize=8, length=2, colors=style.MUTED)
    bar.set_ylabel("% of the mean squared output", size=8, color=style.MUTED)


def _caption(ax: Axes, text: str) -> None:
    ax.set_title(text, size=9, color=style.INK, loc="left", pad=3)
    for spine in ax.spines.values():
        spine.set(color=style.FAINT, linewidth=0.8)

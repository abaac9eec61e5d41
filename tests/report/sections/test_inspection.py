from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from tests.report.conftest import pruned
from thinet.report.figures import draw_figures
from thinet.report.page import write_report
from thinet.report.sections import sections
from thinet.report.sections.pruning.inspection import (
    View,
    inspection_figure,
    mosaic,
    save_inspection,
    tiles_of_filters,
)


def view(channels: int = 16, left: int = 8, **changes: Any) -> View:
    rng = np.random.default_rng(0)
    stays = np.zeros(channels, dtype=bool)
    stays[rng.permutation(channels)[:left]] = True
    settings: dict[str, Any] = {
        "layer": "features.0",
        "kept": stays,
        "image": rng.random((32, 32, 3)),
        "maps": rng.random((channels, 16, 16)),
        "filters": rng.normal(size=(channels, 3, 3, 3)),
        "reader": "features.3",
        "error": rng.random((16, 16)),
        "image_error": rng.random((16, 16)),
        "relative_error": 0.0213,
        "images": 16,
    }
    return View(**{**settings, **changes})


CASES = {
    "colour": view(),
    "grey": view(filters=np.random.default_rng(1).normal(size=(16, 5, 5)), image=np.ones((8, 8))),
    "many": view(2048, 1024, layer="layer3.5.a_rather_long_name_of_a_convolution.conv1"),
    "inner": view(filters=None),
    "linear": view(filters=None, error=None, image_error=None, maps=None),
    "all kept": view(16, 16),
    "one": view(2, 1, maps=np.zeros((2, 1, 1))),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_leaves_the_figure(case: str) -> None:
    figure = inspection_figure(CASES[case])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    texts = [*figure.texts]
    for ax in figure.axes:
        texts += [ax.title, ax._left_title, ax.yaxis.label, *ax.texts]
    boxes = [
        (text.get_text(), text.get_window_extent(canvas.get_renderer()))
        for text in texts
        if text.get_text()
    ]
    assert len(boxes) >= 3
    for text, box in boxes:
        assert -1 <= box.x0 <= box.x1 <= width + 1, text
        assert -1 <= box.y0 <= box.y1 <= height + 1, text


def titles(figure: Any) -> list[str]:
    return [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]


def test_it_says_how_many_are_left_out() -> None:
    shown = titles(inspection_figure(CASES["many"]))
    assert "kept filters: 32 of 1024, 992 not shown" in shown
    assert "removed activation maps: 32 of 1024, 992 not shown" in shown
    few = titles(inspection_figure(CASES["colour"]))
    assert "kept filters: 8" in few
    assert "removed filters: 8" in few


def test_a_layer_that_reads_no_image_has_no_filters() -> None:
    assert not any("filters" in title for title in titles(inspection_figure(CASES["inner"])))


def test_each_filter_is_stretched_by_itself() -> None:
    filters = np.random.default_rng(0).normal(size=(4, 3, 3, 3)) * [[[[9]]]]
    filters[3] = 0.7
    tiles = tiles_of_filters(filters)
    assert tiles[:3].reshape(3, -1).min(axis=1) == pytest.approx(0)
    assert tiles[:3].reshape(3, -1).max(axis=1) == pytest.approx(1)
    assert (tiles[3] == 0.5).all()
    one = filters[0]
    assert tiles[0] == pytest.approx((one - one.min()) / (one.max() - one.min()))


@pytest.mark.parametrize("shape", [(30, 20), (30, 20, 3)])
def test_tiles_lie_in_reading_order(shape: tuple[int, ...]) -> None:
    tiles = np.stack([np.full(shape, k) for k in range(5)])
    found = mosaic(tiles, rows=2, across=3)
    flat = found if found.ndim == 2 else found[..., 0]
    assert flat.shape == (2 * 30 + 1, 3 * 20 + 2)
    assert flat[:30, :20].tolist() == np.zeros((30, 20)).tolist()
    assert (flat[:30, 42:] == 2).all()
    assert (flat[31:, 21:41] == 4).all()
    assert np.isnan(flat[31:, 42:]).all(), "no sixth tile"
    assert np.isnan(flat[30]).all(), "a line"


def test_maps_share_one_scale_and_kept_come_first() -> None:
    maps = np.zeros((4, 8, 8))
    maps[1], maps[2] = 1.0, 0.25
    stays = np.array([False, True, False, True])
    figure = inspection_figure(view(4, 2, maps=maps, filters=None, kept=stays))
    kept, removed = (ax.images[0] for ax in figure.axes[:2])
    assert kept.get_clim() == removed.get_clim() == (0, 1)
    assert np.nanmax(kept.get_array()) == 1
    assert np.nanmax(removed.get_array()) == 0.25


def test_errors_are_in_percent_on_one_scale() -> None:
    error, own = np.full((4, 4), 0.02), np.full((4, 4), 0.05)
    figure = inspection_figure(view(error=error, image_error=own))
    drawn = [ax.images[0] for ax in figure.axes if "error" in ax.get_title(loc="left")]
    assert [float(one.get_array().mean()) for one in drawn] == pytest.approx([2, 5])
    assert drawn[0].get_clim() == drawn[1].get_clim() == (0, pytest.approx(5))


def test_pictures_are_found_again_in_the_order_of_the_cuts(
    tmp_path: Path,
) -> None:
    result = pruned(3)
    figures = tmp_path / "figures"
    (section,) = sections(result)
    assert section.pictures(figures) == []
    for layer in ("features.6", "features.0", "elsewhere"):
        save_inspection(view(layer=layer), figures)
    found = section.pictures(figures)
    assert [one.caption.partition(":")[0] for one in found] == ["features.0", "features.6"]
    drawn = draw_figures(result, figures)
    assert [path.name for path in drawn][-2:] == ["features.0.png", "features.6.png"]
    page = write_report(result, tmp_path).read_text()
    assert "Looking inside" in page
    assert page.count("data:image/png") == 3 + 2
    with Image.open(drawn[-1]) as picture:
        assert picture.width > 700


def test_a_page_without_pictures_has_no_such_section(tmp_path: Path) -> None:
    assert "Looking inside" not in write_report(pruned(3), tmp_path).read_text()

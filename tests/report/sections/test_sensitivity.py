from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from tests.report.conftest import RATIOS, pruned, scanned, sensitivity_details
from thinet.base.errors import ThinetError
from thinet.report import draw_figures, print_result, write_files, write_report
from thinet.report.sections import sections
from thinet.report.sections.sensitivity import Cell, Sensitivity, feed_back, suggestion_text
from thinet.report.sections.sensitivity.figures import curves_figure, heatmap_figure

CSV = """\
layer,ratio,kept,units,top1,top1_drop,top5,divergence
a,0.5,32,64,0.75,0.07999999999999996,0.99,0.125
a,0.1,6,64,0.5,0.32999999999999996,0.9,0.7
"""
SUGGESTION = """\
# The fraction of filters to keep in each layer within flops:0.5, for ratio=@.
# Validation top-1 without fine-tuning (2000 images): these ratios 60.00 %, one ratio for all 40.00 %.
b: 0.25
a: 0.5
"""  # noqa: E501


def test_both_files_to_the_byte(tmp_path: Path) -> None:
    cells = (Cell("a", 0.5, 32, 64, 0.75, 0.99, 0.125), Cell("a", 0.1, 6, 64, 0.5, 0.9, 0.7))
    details = replace(sensitivity_details(), cells=cells, suggestion={"b": 0.25, "a": 0.5})
    paths = write_files(scanned(details=details), tmp_path)
    assert [path.name for path in paths] == ["sensitivity.csv", "suggestion.yaml"]
    assert [path.read_bytes() for path in paths] == [CSV.encode(), SUGGESTION.encode()]


def test_the_table_and_the_suggestion(tmp_path: Path) -> None:
    found = sensitivity_details()
    table, suggestion = write_files(scanned(), tmp_path)
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert len(rows) == 13 * 5
    assert float(rows[4]["top1_drop"]) == pytest.approx(0.83 - found.cells[4].top1)
    assert yaml.safe_load(suggestion.read_text()) == found.suggestion
    assert "60.00 %" in suggestion_text(found)
    assert "40.00 %" in suggestion_text(found)


def test_the_command_that_feeds_it_back() -> None:
    assert feed_back(scanned()) == (
        "python run.py model=resnet56 'layers=[layer1.*]' dataset.root=data/cifar10 "
        "'ratio=@outputs/a run/suggestion.yaml'"
    )
    with pytest.raises(ThinetError, match="method=sensitivity"):
        feed_back(pruned(1))


def test_damaged_details_are_one_sentence() -> None:
    result = scanned()
    assert isinstance(result.details["sensitivity"], dict)
    result.details["sensitivity"]["images"] = "many"
    with pytest.raises(ThinetError, match=r"details of sensitivity .*images: .* resume=off"):
        sections(result)


@pytest.mark.parametrize("layers", [1, 2, 13, 27, 54])
def test_every_curve_holds_its_measurements(layers: int) -> None:
    found = sensitivity_details(layers)
    better = replace(found.cells[0], top1=0.86)  # a cut may help by chance
    found = replace(found, cells=(better, *found.cells[1:]))
    figure = curves_figure(found, "about")
    assert all(ax.get_ylim()[1] > 86 for ax in figure.axes if ax.get_visible())
    lines = {
        line.get_label(): line
        for ax in figure.axes
        for line in ax.get_lines()
        if not str(line.get_label()).startswith("_")
    }
    rows = found.cells
    assert len(lines) == layers
    for name, line in lines.items():
        own = [cell for cell in rows if cell.layer == name]
        assert list(line.get_xdata()) == [1.0, *RATIOS]
        assert list(line.get_ydata()) == pytest.approx([83, *(100 * c.top1 for c in own)])


@pytest.mark.parametrize("layers", [1, 13, 27, 54])
@pytest.mark.parametrize("draw", [curves_figure, heatmap_figure])
def test_nothing_leaves_the_figure(draw: Any, layers: int) -> None:
    figure = draw(sensitivity_details(layers), "word " * 100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    width, height = canvas.get_width_height()
    texts = [*figure.texts]
    for ax in figure.axes:
        if ax.get_visible():
            legend = ax.get_legend()
            texts += [*ax.texts, *ax.get_xticklabels(), ax.xaxis.label]
            texts += legend.get_texts() if legend else []
    for text in texts:
        if text.get_text():
            box = text.get_window_extent(renderer)
            assert -1 <= box.x0 <= box.x1 <= width + 1, text.get_text()
            assert -1 <= box.y0 <= box.y1 <= height + 1, text.get_text()


@pytest.mark.parametrize("layers", [13, 54])
def test_the_heat_map_writes_every_drop_and_the_suggestion(layers: int) -> None:
    found = sensitivity_details(layers)
    texts = [text.get_text() for ax in heatmap_figure(found, "about").axes for text in ax.texts]
    for cell in found.cells:
        assert f"{83 - 100 * cell.top1:.1f}" in texts
    for ratio in found.suggestion.values():
        assert f"{ratio:.2f}" in texts


def test_the_figures_of_the_run_and_its_page(tmp_path: Path) -> None:
    result = scanned()
    drawn = draw_figures(result, tmp_path / "figures")
    assert [path.name for path in drawn] == ["sensitivity_curves.png", "sensitivity_heatmap.png"]
    page = write_report(result, tmp_path).read_text()
    assert page.count("data:image/png") == 2
    assert "suggestion 60.00 %" in page
    assert "ratio=@" in page


def test_the_terminal_shows_a_compact_table() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    print_result(scanned(), console)
    text = console.export_text()
    assert len([line for line in text.splitlines() if line.startswith("features.")]) == 13
    assert "suggested" in text
    assert "one ratio for all 40.00 % at 49.9 % of the FLOPs" in text
    (section,) = sections(scanned())
    assert isinstance(section, Sensitivity)
    assert all(line in text for line in section.lines())
    assert "'ratio=@outputs/a run/suggestion.yaml'" in text

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from thinet.report.figures import draw_figures
from thinet.report.html import write_report
from thinet.report.sensitivity import feed_back, suggestion_text, write_sensitivity
from thinet.report.sensitivity_figures import curves_figure, heatmap_figure
from thinet.report.terminal import print_result

Make = Callable[..., dict[str, Any]]
RATIOS = [0.9, 0.7, 0.5, 0.3, 0.1]


def sensitivity(layers: int) -> dict[str, Any]:
    names = [
        f"features.{3 * k}" if layers <= 13 else f"layer{1 + k // 18}.{k % 18 // 2}.conv{k % 2 + 1}"
        for k in range(layers)
    ]
    cells = [
        {
            "layer": name,
            "ratio": ratio,
            "kept": round(64 * ratio),
            "units": 64,
            "top1": 0.83 - (1 - ratio) ** 3 * (0.05 + 0.6 * ((7 * k) % layers) / layers),
            "top5": 0.99,
            "divergence": (1 - ratio) ** 3,
        }
        for k, name in enumerate(names)
        for ratio in RATIOS
    ]
    return {
        "folder": "outputs/a run",
        "ratios": RATIOS,
        "images": 2000,
        "recalibrated": True,
        "full": {"top1": 0.83, "top5": 0.99, "divergence": 0.0},
        "cells": cells,
        "budget": "flops:0.5",
        "suggestion": {name: 0.1 + 0.9 * k / layers for k, name in enumerate(names)},
        "trial": {
            "uniform": {"top1": 0.4, "flops": 0.4987},
            "suggestion": {"top1": 0.6, "flops": 0.4991},
        },
    }


@pytest.fixture
def make(make_result: Make) -> Make:
    def result(layers: int = 13) -> dict[str, Any]:
        return make_result(
            0,
            method="sensitivity",
            slim=None,
            before_finetuning=None,
            ratio=None,
            schedule=None,
            sensitivity=sensitivity(layers),
            command="python run.py model=resnet56 method=sensitivity method.images=500 ratio=0.3 "
            "+target=flops:0.5 'layers=[layer1.*]' dataset.root=data/cifar10",
        )

    return result


def test_the_table_and_the_suggestion(make: Make, tmp_path: Path) -> None:
    found = make()["sensitivity"]
    table, suggestion = write_sensitivity(found, tmp_path)
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert len(rows) == 13 * 5
    assert float(rows[4]["top1_drop"]) == pytest.approx(0.83 - found["cells"][4]["top1"])
    assert yaml.safe_load(suggestion.read_text()) == found["suggestion"]
    assert suggestion.name == "suggestion.yaml"
    assert "60.00 %" in suggestion_text(found)
    assert "40.00 %" in suggestion_text(found)


def test_the_command_that_feeds_it_back(make: Make) -> None:
    assert feed_back(make()) == (
        "python run.py model=resnet56 'layers=[layer1.*]' dataset.root=data/cifar10 "
        "'ratio=@outputs/a run/suggestion.yaml'"
    )


@pytest.mark.parametrize("layers", [1, 2, 13, 27, 54])
def test_every_curve_holds_its_measurements(make: Make, layers: int) -> None:
    result = make(layers)
    result["sensitivity"]["cells"][0]["top1"] = 0.86  # a cut may help by chance
    figure = curves_figure(result)
    assert all(ax.get_ylim()[1] > 86 for ax in figure.axes if ax.get_visible())
    lines = {
        line.get_label(): line
        for ax in figure.axes
        for line in ax.get_lines()
        if not str(line.get_label()).startswith("_")
    }
    rows = result["sensitivity"]["cells"]
    assert len(lines) == layers
    for name, line in lines.items():
        own = [cell for cell in rows if cell["layer"] == name]
        assert list(line.get_xdata()) == [1.0, *RATIOS]
        assert list(line.get_ydata()) == pytest.approx([83, *(100 * c["top1"] for c in own)])


@pytest.mark.parametrize("layers", [1, 13, 27, 54])
@pytest.mark.parametrize("draw", [curves_figure, heatmap_figure])
def test_nothing_leaves_the_figure(make: Make, draw: Any, layers: int) -> None:
    figure = draw(make(layers))
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
def test_the_heat_map_writes_every_drop_and_the_suggestion(make: Make, layers: int) -> None:
    result = make(layers)
    found = result["sensitivity"]
    texts = [text.get_text() for ax in heatmap_figure(result).axes for text in ax.texts]
    for cell in found["cells"]:
        assert f"{83 - 100 * cell['top1']:.1f}" in texts
    for ratio in found["suggestion"].values():
        assert f"{ratio:.2f}" in texts


def test_the_figures_of_the_run_and_its_page(make: Make, tmp_path: Path) -> None:
    result = make()
    drawn = draw_figures(result, tmp_path / "figures")
    assert [path.name for path in drawn] == ["sensitivity_curves.png", "sensitivity_heatmap.png"]
    page = write_report(result, tmp_path).read_text()
    assert page.count("data:image/png") == 2
    assert "suggestion 60.00 %" in page
    assert "ratio=@" in page


def test_the_terminal_shows_a_compact_table(make: Make) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    print_result(make(), console)
    text = console.export_text()
    assert len([line for line in text.splitlines() if line.startswith("features.")]) == 13
    assert "suggested" in text
    assert "one ratio for all 40.00 % at 49.9 % of the FLOPs" in text
    assert "'ratio=@outputs/a run/suggestion.yaml'" in text

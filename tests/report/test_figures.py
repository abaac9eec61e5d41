from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tests.report.conftest import measurement, pruned, toy, trained, write_run
from thinet.report.figures import draw_figures, run_plots
from thinet.report.sections import sections
from thinet.run.result import Result


def figure_of(result: Result, name: str) -> Any:
    (found,) = [one.draw() for one in run_plots(result, sections(result)) if one.name == name]
    return found


def accuracy_figure(result: Result) -> Any:
    return figure_of(result, "accuracy")


def cost_figure(result: Result) -> Any:
    return figure_of(result, "cost")


def with_steps(result: Result, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> Result:
    """The result with other figures of its steps."""
    steps = tuple(replace(s, figures=change(s.index, dict(s.figures))) for s in result.steps)
    return replace(result, steps=steps)


def _line(figure: Any, label: str) -> tuple[list[float], list[float]]:
    (line,) = [x for x in figure.axes[0].get_lines() if x.get_label().startswith(label)]
    return list(line.get_xdata()), list(line.get_ydata())


def _ticks(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.get_ticklabels()]


@pytest.mark.parametrize("stages", [1, 6, 54])
def test_accuracy_lines_hold_the_accuracies_of_the_stages(stages: int) -> None:
    result = pruned(stages)
    figure = accuracy_figure(result)
    records = result.steps

    places, plain = _line(figure, "after surgery")
    assert places == list(range(1, stages + 1))
    assert plain == pytest.approx([100 * stage.figures["top1_plain"] for stage in records])
    recalibrated = [100 * stage.figures["top1_recalibrated"] for stage in records]
    assert _line(figure, "BatchNorm")[1] == pytest.approx(recalibrated)
    # from the baseline, through the stages, to the network after the last fine-tuning
    tuned = [98.39, *(100 * stage.figures["top1"] for stage in records), 97.19]
    assert _line(figure, "after fine-tuning")[1] == pytest.approx(tuned)
    assert _line(figure, "baseline 98.39 %")[1] == pytest.approx([98.39, 98.39])


@pytest.mark.parametrize("stages", [1, 6, 54])
def test_accuracy_axis_names_every_stage_and_its_compression(stages: int) -> None:
    result = pruned(stages)
    labels = _ticks(accuracy_figure(result).axes[0].xaxis)

    assert labels[0].split() == ["baseline", "0", "%"]
    assert labels[-1] == "final"
    for label, stage in zip(labels[1:-1], result.steps, strict=True):
        assert label.split() == [stage.name, f"{100 * stage.figures['compression_rate']:.0f}", "%"]


def test_stage_labels_do_not_overlap() -> None:
    for stages in (1, 6, 13, 54):
        figure = accuracy_figure(pruned(stages))
        FigureCanvasAgg(figure).draw()
        boxes = [text.get_window_extent() for text in figure.axes[0].get_xticklabels()]
        assert all(left.x1 <= right.x0 for left, right in pairwise(boxes)), f"{stages} stages"


def test_what_was_not_measured_is_left_out() -> None:
    result = with_steps(
        pruned(3, recalibrated=False),
        lambda k, figures: figures | ({"top1_plain": None} if k == 1 else {}),
    )
    figure = accuracy_figure(result)

    assert math.isnan(_line(figure, "after surgery")[1][1])
    assert not [x for x in figure.axes[0].get_lines() if x.get_label().startswith("BatchNorm")]


def test_without_a_validation_baseline_the_figure_says_that_it_is_the_test_one() -> None:
    figure = accuracy_figure(pruned(2, reference=measurement(0.9889, val_top1=None)))

    assert _line(figure, "baseline")[1][0] == pytest.approx(98.89)
    assert any("baseline: test" in text.get_text() for text in figure.texts)
    assert "final" not in _ticks(figure.axes[0].xaxis)  # a test figure among validation ones


def test_a_family_that_nobody_knows_is_drawn_over_its_steps_too() -> None:
    result = toy()
    assert [one.name for one in run_plots(result, sections(result))] == ["accuracy"]
    figure = accuracy_figure(result)
    assert _ticks(figure.axes[0].xaxis) == [
        "full precision", "order 0", "order 1", "order 2", "final",
    ]  # fmt: skip
    assert _line(figure, "top-1")[1] == pytest.approx([94.5, 70, 80, 90, 89.5])
    fewer = with_steps(result, lambda k, figures: {"binary_ops": 9, "flops": 2_000_000 / (k + 2)})
    (line,) = figure_of(fewer, "cost").axes[0].get_lines()
    assert list(line.get_ydata()) == pytest.approx([100, 50, 100 / 3, 25])


def test_a_training_in_several_steps_begins_nowhere() -> None:
    """The reference is what the steps lead to."""
    steps = tuple(replace(trained().steps[0], index=k, figures={"top1": 0.5 + k / 10})
                  for k in range(3))  # fmt: skip
    assert _line(accuracy_figure(trained(steps=steps)), "top-1")[1][1:] == [50, 60, 70]
    assert math.isnan(_line(accuracy_figure(trained(steps=steps)), "top-1")[1][0])


def test_cost_lines_are_shares_of_the_baseline() -> None:
    result = pruned(6)
    figure = cost_figure(result)

    for label, key in (("FLOPs", "flops"), ("parameters", "params")):
        shares = [
            100 * stage.figures[key] / getattr(result.reference, key) for stage in result.steps
        ]
        assert _line(figure, label)[1] == pytest.approx([100, *shares])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "FLOPs 31.0 %\n9.59 B of 30.94 B" in texts
    assert "parameters 72.4 %\n100.16 M of 138.34 M" in texts


@pytest.mark.parametrize("layers", [1, 6, 110])
def test_width_bars_are_the_filters_of_every_layer(layers: int) -> None:
    result = pruned(layers)
    figure = figure_of(result, "widths")
    names, before, after = [], [], []
    for ax in figure.axes:
        pale, solid = ax.containers
        before += [bar.get_width() for bar in pale]
        after += [bar.get_width() for bar in solid]
        names += _ticks(ax.yaxis)

    (section,) = sections(result)
    cuts = section.found.layers
    assert names == [cut.layer for cut in cuts]
    assert before == [cut.filters_before for cut in cuts]
    assert after == [cut.filters_after for cut in cuts]


def test_draw_figures_writes_pngs_and_nothing_else(tmp_path: Path) -> None:
    paths = draw_figures(pruned(2), tmp_path / "figures")

    assert [path.name for path in paths] == ["accuracy.png", "cost.png", "widths.png"]
    assert sorted((tmp_path / "figures").iterdir()) == sorted(paths)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_a_run_that_only_trains_has_no_figures(tmp_path: Path) -> None:
    assert draw_figures(trained(), tmp_path) == []


def test_reports_import_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys, thinet.report;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_figures_leave_pyplot_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from thinet.report import draw_figures;"
        "from thinet.run.result import read_result;"
        "draw_figures(read_result(sys.argv[1]), sys.argv[1]);"
        "sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    )
    folder = write_run(tmp_path / "run", pruned(1))
    done = subprocess.run([sys.executable, "-c", code, str(folder)], timeout=60)
    assert done.returncode == 0


@pytest.mark.parametrize("draw", [accuracy_figure, cost_figure])
@pytest.mark.parametrize("count", [1, 5, 54, 102, 400])
def test_labels_of_many_stages_do_not_touch_and_the_last_is_there(
    count: int, draw: Callable[..., Any]
) -> None:
    figure = draw(pruned(count))
    FigureCanvasAgg(figure).draw()
    (ax,) = figure.axes
    labels = [one for one in ax.get_xticklabels() if one.get_text()]
    boxes = [one.get_window_extent() for one in labels]
    assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))
    assert labels[0].get_text().startswith("baseline")
    assert ax.get_xticks()[-1] == pytest.approx(ax.get_xlim()[1] - 0.4)
    assert figure.get_figwidth() <= 12.5
    ends = sorted((one.get_window_extent() for one in ax.texts), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 for lower, upper in pairwise(ends))

"""Figures of one run, as pure functions from a result and what was logged beside it.

Accuracies are drawn in percent. Blue always stands for the network that the run ends with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thinet.report import plot, style
from thinet.report.chart import Chart
from thinet.report.sections import Plot, Section, sections
from thinet.report.steps import accuracy_chart, cost_chart, reference_top1
from thinet.report.table import subject
from thinet.run.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_figures(result: Result, folder: str | Path) -> list[Path]:
    """Write the figures a result has data for as PNG files into ``folder``, each atomically.

    Args:
        result: The result.
        folder: ``figures`` in the folder of the run, which has what was logged.

    Returns:
        The paths: ``accuracy.png`` and ``cost.png`` where steps have accuracies or costs, and those
        of the families. Pictures that were drawn during the run and lie in the folder follow.

    Raises:
        ThinetError: If the folder cannot be written.
    """
    said = sections(result)
    drawn = [
        style.save_png(one.draw(), Path(folder) / f"{one.name}.png")
        for one in run_plots(result, said, Path(folder).parent)
    ]
    return drawn + [one.path for section in said for one in section.pictures(Path(folder))]


def run_plots(
    result: Result, said: Sequence[Section[object]], folder: Path | None = None
) -> list[Plot]:
    """The figures a result has data for.

    Args:
        result: The result.
        said: Its sections.
        folder: Of the run; None to draw from the result alone.
    """
    plots = []
    if accuracy := accuracy_chart(result, said):
        about = f"top-1 on {reference_top1(result)[1]} images"
        caption = "Top-1 accuracy after each step, on validation images."
        plots.append(Plot("accuracy", caption, _drawing(result, accuracy, about, 4.9)))
    if cost := cost_chart(result):
        about = f"share of {result.reference_is}"
        caption = f"{' and '.join(line.name for line in cost.lines)} that remain after each step."
        plots.append(Plot("cost", caption, _drawing(result, cost, about, 4.7)))
    for section in said:
        plots += section.plots()
        plots += section.logged(folder) if folder is not None else ()
    return plots


def _drawing(result: Result, chart: Chart, about: str, height: float) -> Callable[[], Figure]:
    width = min(max(8.4, 2.4 + 0.185 * len(result.steps)), 12.5)
    subtitle = f"{subject(result)}; {about}"
    return lambda: plot.picture([chart], chart.title, subtitle, width, height)

"""What is said of a search of widths: on the page of a run, on the terminal, in figures."""

from __future__ import annotations

import csv
import io
import math
import statistics
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from rich.console import Console

from tests.report.conftest import FLOPS, PARAMS, measurement, pruned, write_run
from tests.report.searched import (
    GENERATIONS,
    HIGH,
    IMAGES,
    LOW,
    POPULATION,
    judged,
    rows,
    search_details,
    searched,
    trained_networks,
    with_front,
)
from thinet.base.errors import ThinetError
from thinet.base.records import to_json
from thinet.report import compare_report, draw_figures, print_result, style, write_report
from thinet.report.figures import run_plots
from thinet.report.many.runs import gather
from thinet.report.sections import sections, write_files
from thinet.report.sections.search import Candidate, SearchDetails
from thinet.run.result import Result


def text_of(result: Result) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    print_result(result, console)
    return " ".join(console.export_text().split())


def section_of(found: SearchDetails | None = None, **changes: Any) -> Any:
    (section,) = sections(searched(found, **changes))
    return section


def drawn(result: Result) -> dict[str, Any]:
    return {one.name: one.draw() for one in run_plots(result, sections(result))}


def heights(candidates: tuple[Candidate, ...]) -> list[float]:
    return [100 * (1 - one.error) for one in candidates]


def texts_of(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_what_was_searched_and_what_it_is_worth() -> None:
    found = search_details()
    errors = [one.error for one in found.candidates]
    best = min(errors)
    chance = math.sqrt(statistics.fmean(e * (1 - e) for e in errors) / IMAGES)
    spread = statistics.stdev(errors)
    assert chance < spread
    assert section_of(found).lines() == [
        "found against uniform widths, trained alike for 30 epochs: +1.20 points of top-1 "
        "(84.20 % against 83.00 %)",
        "20 widths of 3 groups of layers judged by proxy hypernet (1.25 M parameters trained for "
        "it) in 4 generations within flops:0.5: 47.5 % to 50.0 % of the full network's FLOPs; "
        "each on 2,000 validation images, BatchNorm re-estimated on 640",
        f"error as the proxy sees it: found {100 * best:.2f} %, uniform 31.00 %; these errors "
        "rank widths and are no accuracies to expect, and the least of 20 is too good by chance",
        f"candidates differ by {100 * spread:.2f} points (standard deviation of their errors); "
        f"the standard error of each is {100 * chance:.2f} points, at most 1.12 points: up to "
        f"{100 * (chance / spread) ** 2:.0f} % of their variance is chance",
        "time: proxy 1 min 05 s, search 40.0 s, training 1 min 30 s",
        "go on with these widths: ratio=@<folder of this run> layers=all, with criterion=thinet "
        "for ThiNet's choice of filters or method=scratch to train them anew",
    ]


def test_images_that_are_too_few_to_rank_are_told() -> None:
    few = search_details(images=100, standard_error=0.05)
    assert any(
        line.endswith("chance alone could tell them apart so, judge on more search.images")
        for line in section_of(few).lines()
    )
    one = search_details(candidates=judged(1, 1))
    for words in ("standard deviation", "least of"):
        assert not any(words in line for line in section_of(one).lines())


def test_without_training_uniform_widths_or_a_hypernetwork_less_is_said() -> None:
    found = search_details(
        proxy="prune", hypernet_parameters=0, calibration=0, trained=(), uniform=None,
        kind="params", target="params:0.5", seconds={},
    )  # fmt: skip
    text = " ".join(section_of(found).lines())
    assert "judged by proxy prune in 4 generations" in text
    assert "of the full network's parameters; each on 2,000 validation images error" in text
    for word in ("uniform", "time:", "trained", "BatchNorm", "front"):
        assert word not in text


def test_found_stands_beside_uniform() -> None:
    found = search_details()
    error = f"{100 * min(one.error for one in found.candidates):.2f} %"
    worth, widths = section_of(found, reference=measurement(0.86)).tables()
    assert worth.brief
    assert worth.leading
    assert worth.heads == (
        "", "FLOPs", "parameters", "proxy's error", "top-1", "top-5", "against uniform",
    )  # fmt: skip
    assert worth.rows == (
        ("full network", "30.94 B", "138.34 M", "–", "86.00 %", "87.50 %", "–"),
        ("uniform widths", "15.16 B (49.0 %)", "69.17 M (50.0 %)", "31.00 %", "83.00 %", "84.50 %",
         "–"),
        ("found widths", "15.47 B (50.0 %)", "55.34 M (40.0 %)", error, "84.20 %", "85.70 %",
         "+1.20 points"),
    )  # fmt: skip
    assert widths.heads == ("layers", "full", "found", "kept", "uniform")
    assert widths.rows == (
        ("features.0, features.0.after, features.0.last", "64", "16", "25 %", "45"),
        ("features.3", "128", "80", "62 %", "90"),
        ("features.6", "256", "256", "100 %", "179"),
    )
    stream = replace(found.widths[0], layers=("a", "b", "c", "d", "e"))
    (*_, long) = section_of(replace(found, widths=(stream,))).tables()
    assert long.rows[0][0] == "a, b, c + 2 more"
    assert "found widths 15.47 B (50.0 %)" in text_of(searched(found))
    assert "features.3 128" not in text_of(searched(found))


def test_costs_of_widths_that_were_not_trained_are_shares() -> None:
    best = Candidate((1, 2), 0, 0.25, 0.48, 0.5, 0.25)
    found = search_details(candidates=(best,), trained=(), kind="latency", target="latency:0.5")
    worth, _ = section_of(found).tables()
    assert worth.heads == ("", "FLOPs", "parameters", "predicted latency", "proxy's error")
    assert worth.rows == (
        ("full network", "30.94 B", "138.34 M", "100.0 %", "–"),
        ("uniform widths", "15.16 B (49.0 %)", "69.17 M (50.0 %)", "49.0 %", "31.00 %"),
        ("found widths", "15.47 B (50.0 %)", "34.59 M (25.0 %)", "48.0 %", "25.00 %"),
    )
    alone, widths = section_of(replace(found, uniform=None)).tables()
    assert [row[0] for row in alone.rows] == ["full network", "found widths"]
    assert alone.title == "Found widths"
    assert widths.heads[-1] == "kept"


def test_without_test_images_there_is_no_accuracy_to_compare() -> None:
    nothing = tuple(replace(one, measurement=measurement(None)) for one in trained_networks())
    worth, _ = section_of(search_details(trained=nothing)).tables()
    assert worth.heads == ("", "FLOPs", "parameters", "proxy's error")
    assert {len(row) for row in worth.rows} == {4}
    assert not any("points of top-1" in line
                   for line in section_of(search_details(trained=nothing)).lines())  # fmt: skip


def test_every_candidate_is_drawn_where_its_cost_and_error_are() -> None:
    found = search_details()
    cloud, *_ = drawn(searched(found))["search"].axes
    points = next(
        one for one in cloud.collections if len(one.get_offsets()) == len(found.candidates)
    )
    assert [tuple(one) for one in points.get_offsets()] == [
        pytest.approx((100 * one.cost, 100 * (1 - one.error))) for one in found.candidates
    ]
    assert list(points.get_array()) == [1 + one.generation for one in found.candidates]
    (shade,) = cloud.patches
    assert (shade.get_x(), shade.get_width()) == pytest.approx((100 * LOW, 100 * (HIGH - LOW)))
    left, right = cloud.get_xlim()
    assert right - left >= 10, "costs that are nearly equal are near each other"
    best = min(one.error for one in found.candidates)
    chance = 100 * math.sqrt(statistics.fmean(e.error * (1 - e.error) for e in found.candidates)
                             / IMAGES)  # fmt: skip
    assert texts_of(cloud) == [
        f"uniform\n69.0 ± {chance:.1f} %", f"found\n{100 * (1 - best):.1f} ± {chance:.1f} %",
    ]  # fmt: skip
    marks = {to_hex(bar.lines[0].get_color()).upper(): bar for bar in cloud.containers}
    assert marks[style.BLUE].lines[0].get_ydata()[0] == pytest.approx(100 * (1 - best))
    assert marks[style.VERMILLION].lines[0].get_xydata()[0] == pytest.approx((49, 69))
    (bar,) = marks[style.BLUE].lines[2]
    low, high = bar.get_segments()[0][:, 1]
    assert high - low == pytest.approx(2 * chance)


def test_a_wide_budget_is_shown_as_a_whole() -> None:
    cloud, *_ = drawn(searched(search_details(low=0.2)))["search"].axes
    left, right = cloud.get_xlim()
    assert left < 20
    assert right > 50


def test_the_course_has_the_best_so_far_and_the_mean_of_each_generation() -> None:
    found = search_details()
    _, course, *_ = drawn(searched(found))["search"].axes
    lines = {line.get_label(): line for line in course.get_lines()}
    by_generation = [heights(found.candidates[k * POPULATION :][:POPULATION])
                     for k in range(GENERATIONS)]  # fmt: skip
    assert list(lines["best"].get_xdata()) == [1, 2, 3, 4]
    bests = [max(max(one) for one in by_generation[: k + 1]) for k in range(GENERATIONS)]
    assert list(lines["best"].get_ydata()) == pytest.approx(bests)
    assert bests != [max(one) for one in by_generation], "so far, not of each"
    means = [statistics.fmean(one) for one in by_generation]
    assert list(lines["mean"].get_ydata()) == pytest.approx(means)
    assert texts_of(course) == ["best so far", "mean of each", "uniform"]
    level = next(line for line in course.get_lines() if len(line.get_xdata()) == 2)
    assert level.get_ydata()[0] == pytest.approx(69)


def test_a_front_is_a_line_over_the_whole_range_of_costs() -> None:
    found = with_front(search_details())
    cloud, *_ = drawn(searched(found))["search"].axes
    front = sorted((found.candidates[place] for place in found.front), key=lambda one: one.cost)
    (line,) = [one for one in cloud.get_lines() if len(one.get_xdata()) > 1]
    assert list(line.get_xdata()) == pytest.approx([100 * one.cost for one in front])
    assert list(line.get_ydata()) == pytest.approx(heights(tuple(front)))
    assert "front" in texts_of(cloud)
    costs = [100 * one.cost for one in found.candidates]
    left, right = cloud.get_xlim()
    assert left < min(costs)
    assert max(costs) < right
    low, high = (f"{100 * one.cost:.1f} %" for one in (front[0], front[-1]))
    assert (
        f"{len(front)} candidates on the front of error and FLOPs, from {low} to {high} of the "
        "full network's"
    ) in section_of(found).lines()


@pytest.mark.parametrize(
    "found",
    [
        search_details(candidates=judged(1, 1), widths=rows(1)),
        search_details(candidates=judged(1, 20), uniform=None),
        search_details(candidates=judged(20, 50), widths=rows(60)),
        search_details(candidates=tuple(replace(one, error=0.0) for one in judged()), uniform=None),
        search_details(images=30, standard_error=0.09),
    ],
    ids=["one", "one generation", "a thousand", "no error", "few images"],
)
def test_few_and_many_candidates_are_drawn(found: SearchDetails) -> None:
    figure = drawn(searched(found))["search"]
    cloud, *others = figure.axes
    FigureCanvasAgg(figure).draw()
    several = len({one.generation for one in found.candidates}) > 1
    assert len(others) == (2 if several else 0), "course and bar of colours"
    low, high = cloud.get_ylim()
    shown = [*found.candidates, *([found.uniform] if found.uniform else [])]
    assert all(low < height < high for height in heights(tuple(shown)))
    sides = cloud.get_xlim()
    assert all(sides[0] < 100 * one.cost < sides[1] for one in shown)
    assert high - low >= 0.5, "equal errors look equal"
    assert high <= 100 + 0.03 * (high - low), "nothing is beyond all"


@pytest.mark.parametrize("groups", [5, 60])
def test_found_widths_are_set_against_uniform_ones(groups: int) -> None:
    found = search_details(widths=rows(groups))
    axes = drawn(searched(found))["search_widths"].axes
    bars = [bar for ax in axes for bar in ax.containers[1]]
    assert [bar.get_width() for bar in bars] == pytest.approx(
        [100 * row.found / row.full for row in found.widths]
    )
    ticks = [tuple(at) for ax in axes for at in ax.collections[-1].get_offsets()]
    assert [at[0] for at in ticks] == pytest.approx(
        [100 * row.uniform / row.full for row in found.widths]
    )
    names = [label.get_text() for ax in axes for label in ax.get_yticklabels()]
    assert names[:2] == [f"{found.widths[0].layers[0]} + 2 more", found.widths[1].layers[0]]
    assert (len(names), len(axes)) == (groups, 1 if groups == 5 else 2)
    assert [text for ax in axes for text in texts_of(ax)] == [
        f"{row.found} of {row.full}" for row in found.widths
    ]
    assert [one.get_text() for one in axes[0].get_legend().get_texts()] == ["found", "uniform"]


def test_without_uniform_widths_none_are_drawn() -> None:
    found = search_details(uniform=None, trained=trained_networks()[:1])
    figures = drawn(searched(found))
    (ax,) = figures["search_widths"].axes
    assert not ax.collections
    for ax in figures["search"].axes[:2]:
        assert not any("uniform" in text for text in texts_of(ax))


def test_names_of_neighbouring_layers_do_not_overlap() -> None:
    figure = drawn(searched(search_details(widths=rows(60))))["search_widths"]
    FigureCanvasAgg(figure).draw()
    for ax in figure.axes:
        boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
        assert all(below.y1 <= above.y0 for above, below in pairwise(boxes))
        assert all(box.x0 >= 0 for box in boxes)


def test_page_files_and_steps(tmp_path: Path) -> None:
    found = search_details()
    result = searched(found)
    folder = write_run(tmp_path / "run", result)
    assert [path.name for path in draw_figures(result, folder / "figures")] == [
        "search.png", "search_widths.png",
    ]  # fmt: skip
    assert [path.name for path in write_files(result, folder)] == ["candidates.csv"]
    with (folder / "candidates.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(found.candidates)
    assert lines[7]["genes"] == "1 2 20"
    assert float(lines[7]["error"]) == found.candidates[7].error
    page = write_report(result, folder).read_text()
    assert page.count("<figure>") == 2
    for text in ("best by the proxy", "uniform by the proxy", "top-1, found", "generation 4",
                 "82.50 %", "Found beside uniform widths"):  # fmt: skip
        assert text in page
    assert "&lt;folder of this run&gt;" in page


def test_an_empty_search_is_a_page_all_the_same(tmp_path: Path) -> None:
    bare = searched(search_details(candidates=(), widths=(), uniform=None, trained=()))
    assert drawn(bare) == {}
    assert write_report(bare, tmp_path).exists()


def sweep(folder: Path, **changes: Any) -> list[Path]:
    """Two targets, two seeds each."""
    written = []
    for k, share in enumerate((0.3, 0.5)):
        for seed in (0, 1):
            found, even = trained_networks(0.8 + k / 10 + seed / 100, 0.7 + k / 10 + seed / 50)
            costs = {"flops": round(share * FLOPS), "params": round(share * PARAMS)}
            trained = tuple(
                replace(one, measurement=replace(one.measurement, **costs)) for one in (found, even)
            )
            details = search_details(target=f"flops:{share}", trained=trained)
            result = searched(details, seed=seed, **changes)
            written.append(write_run(folder / f"{share}-{seed}", result))
    return written


def test_a_sweep_has_a_curve_of_found_and_one_of_uniform_widths(tmp_path: Path) -> None:
    from thinet.report.many.sweep import sweep_figure

    entries = gather(sweep(tmp_path))
    (ax,) = sweep_figure(entries).axes
    lines = {line.get_label(): line for line in ax.get_lines()}
    found, even = lines["metaprune"], lines["metaprune, uniform widths"]
    assert list(found.get_xdata()) == pytest.approx([50, 70])
    assert list(found.get_ydata()) == pytest.approx([90.5, 80.5])
    assert list(even.get_xdata()) == pytest.approx([50, 70])
    assert list(even.get_ydata()) == pytest.approx([81, 71])
    assert [one.accuracies["top1_uniform"] for one in entries] == pytest.approx(
        [0.7, 0.72, 0.8, 0.82]
    )


def test_the_page_of_many_runs_tells_models_from_what_they_are_compared_with(
    tmp_path: Path,
) -> None:
    folders = [*sweep(tmp_path / "runs"), write_run(tmp_path / "pruned", pruned(2, share=0.4))]
    page = compare_report(folders, tmp_path / "out").read_text()
    assert 'data-way="0-0 0-1"' in page, "a search belongs to both lines"
    assert 'data-way="0-2"' in page
    assert "metaprune, uniform widths, target flops:0.3: 71.00 % (mean of 2 runs)" in page
    assert "uniform widths" in page
    assert "features.3: 128 → 80 channels, 62.5 % kept" in page


def test_a_control_on_the_front_does_not_put_its_run_there(tmp_path: Path) -> None:
    from thinet.report.many.page import compare_page

    result = searched(search_details(trained=trained_networks(0.7, 0.9)))
    better = pruned(2, top1=0.8, share=0.45)  # than what was found, and not than uniform widths
    folders = [write_run(tmp_path / str(k), one) for k, one in enumerate((result, better))]
    (dataset,) = compare_page(gather(folders), tmp_path).datasets
    wanted = "metaprune, uniform widths target flops:0.5 (#1), prune ratio 0.3 (#2)"
    assert dataset.curves[0].front == wanted
    assert "FLOPs" in dataset.fronts[2]
    assert dataset.fronts[1] == "parameters", "of which what was found has fewer"


@pytest.mark.parametrize(
    "damage",
    [
        {"best": 20},
        {"best": -1},
        {"front": [3, 20]},
        {"uniform": {"genes": []}},
        {"standard_error": math.nan},
        {"candidates": [[1]]},
        {"kind": None},
        {"more": 1},
    ],
    ids=str,
)
def test_damaged_details_are_one_sentence(tmp_path: Path, damage: dict[str, Any]) -> None:
    result = replace(searched(), details={"search": {**to_json(search_details()), **damage}})
    with pytest.raises(ThinetError) as error:
        write_report(result, tmp_path)
    assert str(error.value).startswith("the details of search in the result of vgg16-digits-")
    assert "\n" not in str(error.value)
    (entry,) = gather([write_run(tmp_path / "run", result)])
    assert entry.status == "complete"

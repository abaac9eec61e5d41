"""The steps of one run: their table, and charts of accuracy and cost over them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from thinet.base.evaluation import CLASSIFICATION
from thinet.report import numbers
from thinet.report.axes import AXES, BINARY, BITS, FLOPS, SAME, SIZE, Axis
from thinet.report.chart import Chart, Kind, Level, Line, Look, Mark, Scale
from thinet.report.sections import Section, StepFigure
from thinet.report.table import Table, peak_memory
from thinet.run.result import Result

_COSTS = {
    "compression_rate": StepFigure("FLOPs removed", write=lambda value: numbers.percent(value, 1)),
    "flops": StepFigure("FLOPs", write=numbers.human),
    "binary_ops": StepFigure("binary operations", write=numbers.human),
    "params": StepFigure("parameters", write=numbers.human),
    "macs": StepFigure(""),
    "weights": StepFigure(""),
    "size_mb": StepFigure(""),
    "bits": StepFigure(""),
}
_OTHERS = {
    "top1": StepFigure("top-1", "top-1"),
    "top5": StepFigure("top-5"),
    "latency_ms": StepFigure("latency", write=numbers.milliseconds),
}
_MAIN = "top1"
_APART = ("teacher",)
"""References that a model is compared with and was not made of: no line leads from them."""
_LINES = ((1, 4), (5, 1), (2, 2), (3, 3), (4, 5))
"""Colour and shape of the lines beside the main one."""


def _plain(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return numbers.MISSING
    return numbers.human(value) if abs(value) >= 1000 else f"{value:.4g}"


def _known(result: Result, sections: Sequence[Section[object]]) -> dict[str, StepFigure]:
    """The figures that at least one step has, in the order of the columns."""
    own: Mapping[str, StepFigure] = {
        name: figure for section in sections for name, figure in section.step_figures.items()
    }
    words = {**_COSTS, **{key: own[key] for key in own if key not in _OTHERS}, **_OTHERS, **own}
    there = dict.fromkeys(
        key
        for step in result.steps
        for key, value in step.figures.items()
        if value is not None
        and (value or key not in _COSTS)  # costs of a kind that there is none of
    )
    unknown = {key: StepFigure(key, write=_plain) for key in there if key not in words}
    return {key: one for key, one in (words | unknown).items() if key in there}


def step_table(result: Result, sections: Sequence[Section[object]]) -> Table | None:
    """One row a step, with the figures that steps have; None if there are no steps."""
    if not result.steps:
        return None
    shown = {key: one for key, one in _known(result, sections).items() if one.head}
    memory = peak_memory(result.steps)
    heads = ("step", *(one.head for one in shown.values()), "epochs", "time")
    rows = tuple(
        (
            step.name,
            *(one.write(step.figures.get(key)) for key, one in shown.items()),
            str(step.epochs),
            numbers.seconds(step.seconds),
            *([numbers.megabytes(step.peak_memory_mb, 0)] if memory else []),
        )
        for step in result.steps
    )
    told = [] if result.unseen else ["Accuracies of steps are measured on validation images."]
    note = " ".join([*told, *([f"Peak memory: {memory}."] if memory else [])])
    return Table("Steps", (*heads, *(["peak memory"] if memory else [])), rows, note)


def accuracy_chart(result: Result, sections: Sequence[Section[object]]) -> Chart | None:
    """Top-1 after every step, and whatever else of it the family measures, over the steps.

    Place 0 is the reference. A last place ``final`` follows when the model has a validation
    accuracy of its own. None if there is nothing to compare: a single step that does not begin
    with the reference.
    """
    steps = result.steps
    if not any(step.figures.get(_MAIN) is not None for step in steps):
        return None
    begins = result.model is not None and result.reference_is not in _APART
    if not begins and len(steps) < 2:
        return None
    base, split = reference_top1(result)
    final = result.model.val_top1 if result.model and split == "validation" else None
    size = 6.5 if len(steps) <= 20 else 4.5
    lines = []
    known = _known(result, sections)
    beside = [(key, one.line) for key, one in known.items() if one.line and key != _MAIN]
    for (key, name), (color, shape) in zip(beside, _LINES, strict=False):
        marks = tuple(_mark(1 + k, step.figures.get(key)) for k, step in enumerate(steps))
        lines.append(Line(name, marks, Look(color, shape=shape, width=1.0, size=size)))
    start = base if begins else None
    values = [start, *(step.figures.get(_MAIN) for step in steps)]
    values += [] if final is None else [final]
    marks = tuple(_mark(place, value) for place, value in enumerate(values))
    last = next(mark.y for mark in reversed(marks) if math.isfinite(mark.y))
    end = numbers.percent(last / 100)
    lines.append(Line(known[_MAIN].line, marks, Look(0, width=2.0, size=size), end))
    level = f"{result.reference_is} {numbers.percent(base)}"
    return Chart(
        "Accuracy after each step",
        _places(result, final=final is not None),
        "top-1 accuracy",
        tuple(lines),
        () if base is None else (Level(100 * base, level),),
        legend=True,
    )


def cost_chart(result: Result) -> Chart | None:
    """The costs that remain after every step, in percent of the reference's; None if all do."""
    steps = result.steps
    lines: list[Line] = []
    size = 6.0 if len(steps) <= 20 else 4.0
    # As the accuracy of the model is blue, so is its main cost.
    looks = [Look(c, shape=s, width=2.0, size=size) for c, s in ((0, 0), (4, 1), (2, 2), (3, 3))]
    for axis in AXES:
        before = axis.of(result.reference)
        values = [step.figures.get(axis.key) for step in steps]
        if axis.measured or not before or all(value in (None, before) for value in values):
            continue
        line = _cost_line(axis, before, values, looks[len(lines) % len(looks)])
        if axis == SIZE and lines:
            continue  # it follows the parameters or their bits from step to step
        if axis == BITS and any(_alike(line, other) for other in lines):
            continue  # as many to each parameter as before
        lines.append(_beside(line, steps[-1].figures) if axis == FLOPS else line)
    if not lines:
        return None
    return Chart(
        f"{' and '.join(line.name for line in lines)} after each step",
        _places(result, final=False),
        f"remaining share of the {result.reference_is}",
        tuple(lines),
        legend=True,
        from_zero=True,
    )


def _cost_line(axis: Axis, before: float, values: Sequence[float | None], look: Look) -> Line:
    shares = [1.0, *(None if value is None else value / before for value in values)]
    marks = tuple(_mark(place, share) for place, share in enumerate(shares))
    left = next(value for value in reversed(values) if value is not None)
    end = f"{axis.name} {100 * left / before:.1f} %\n{axis.write(left)} of {axis.write(before)}"
    return Line(axis.name, marks, look, end)


def _alike(one: Line, other: Line) -> bool:
    pairs = zip(one.marks, other.marks, strict=True)
    return not any(abs(a.y - b.y) > 100 * SAME for a, b in pairs)  # of what is not known, neither


def _beside(line: Line, figures: Mapping[str, float | None]) -> Line:
    """A line of FLOPs that says how many operations are not among them."""
    count = figures.get(BINARY.key)
    if not count:
        return line
    return replace(line, end=f"{line.end}\nand {BINARY.write(count)} {BINARY.name}")


def reference_top1(result: Result) -> tuple[float | None, str]:
    """The accuracy to compare steps with, which are measured on validation images."""
    reference = result.reference
    if reference.val_top1 is not None or result.evaluation != CLASSIFICATION:
        return reference.val_top1, "validation"
    return reference.top1, f"validation ({result.reference_is}: test)"


def _mark(place: int, fraction: float | None) -> Mark:
    y = math.nan if fraction is None else 100 * fraction
    return Mark(place, y, y, y)


def _places(result: Result, final: bool) -> Scale:
    names = (result.reference_is, *(step.name for step in result.steps), *["final"] * final)
    removed = [step.figures.get("compression_rate") for step in result.steps]
    if all(rate is None for rate in removed):
        return Scale("step", Kind.PLACES, names=names)
    notes = ("0 %", *(numbers.percent(rate, 0) for rate in removed), *[""] * final)
    return Scale("step, and FLOPs removed so far", Kind.PLACES, names=names, notes=notes)

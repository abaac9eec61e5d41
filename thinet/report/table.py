"""Tables, and what is said of a run in words: its figures, subject, headline and command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from thinet.base.errors import ThinetError
from thinet.base.evaluation import Evaluation
from thinet.base.records import JSON
from thinet.report import numbers
from thinet.report.axes import BINARY, BITS, FLOPS, PARAMS, SIZE, Axis, axes, moved
from thinet.run.result import Result, StepRecord


@dataclass(frozen=True)
class Table:
    """A table to be shown.

    Attributes:
        title: Above it; may be empty.
        heads: Of the columns.
        rows: Texts; the first column is written to the left, the others to the right.
        note: Below it.
        brief: Whether it is short enough for the terminal.
        leading: Whether it says what a run found, and stands above the figures of a page.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    brief: bool = False
    leading: bool = False


@dataclass(frozen=True)
class Comparison:
    """One line of the table reference against model, ready to print."""

    label: str
    reference: str
    model: str
    change: str


_NAMED = ("teacher",)
"""Settings whose value names a network or a file: alone it would not say what it is for."""
_ANYTHING = ("none", "default")
"""Options of many groups, which say nothing alone."""
_COSTS = (
    FLOPS,
    Axis("macs", "MACs", ""),
    BINARY,
    PARAMS,
    Axis("weights", "weights only", ""),
    BITS,
    SIZE,
    Axis("latency_ms", "latency", "", numbers.milliseconds, "faster", "slower"),
)


def compare(result: Result) -> list[Comparison]:
    """Set the reference against the model, one quantity a line; costs that nobody knows are none.

    A run without a model has ``n/a`` in its place.
    """
    before, after = result.reference, result.model
    lines = []
    for one in () if result.unseen else result.evaluated.figures:
        old, new = (part.figures()[one.field] if part else None for part in (before, after))
        written = (numbers.percent(old), numbers.percent(new), numbers.points(old, new))
        lines.append(Comparison(one.name, *written))
    for axis in _COSTS:
        old, new = axis.of(before), axis.of(after) if after else None
        if (old or new) and not (axis.key == "bits" and _plain_bits(result)):
            change = axis.change(before, after) if after else numbers.MISSING
            lines.append(Comparison(axis.name, axis.write(old), axis.write(new), change))
    return lines


def _plain_bits(result: Result) -> bool:
    """Whether each parameter takes what a float does, so that their number says it all."""
    return all(one.bits == 32 * one.params for one in (result.reference, result.final))


def summary(result: Result) -> Table:
    """The table reference against model; the model's columns are there if there is a model."""
    made = result.model is not None
    heads = ("", result.reference_is, *(("model", "change") if made else ()))
    rows = tuple(
        (line.label, line.reference, *((line.model, line.change) if made else ()))
        for line in compare(result)
    )
    return Table("", heads, rows)


def lead(result: Result) -> str:
    """What the accuracies are measured on, in words."""
    return "no accuracy, since there are no images" if result.unseen else result.evaluated.lead


def headline(result: Result) -> str:
    """Say what the run achieved: accuracies of both networks and the saving in the main cost.

    A network that was not trained, and is compared with for its costs alone, has no accuracy.
    Where operations became binary ones it is told in all of them: one alone would say too much.
    """
    before, after = result.reference, result.model
    if result.unseen:
        saved = _saving(result) if after else f"{numbers.human(before.flops)} FLOPs"
        return f"no images to measure accuracy on, {saved}"
    old = f"{numbers.percent(before.top1)} {result.evaluated.main.name}"
    if after is None:
        return f"{old}, {numbers.human(before.flops)} FLOPs"
    new = f"{numbers.percent(after.top1)} {result.evaluated.main.name} {_saving(result)}"
    return new if before.top1 is None else f"{old} → {new}"


def _saving(result: Result) -> str:
    before, after = result.reference, result.final
    found = {}
    for axis in axes([result]):
        change = axis.change(before, after)
        if change not in ("unchanged", numbers.MISSING) and not axis.measured:
            found[axis.key] = f"{change} {axis.name}"
    if not found:
        return "at the same cost"
    if not moved(result):
        return f"at {next(iter(found.values()))}"
    savings = [found[axis.key] for axis in (BITS, FLOPS) if axis.key in found]
    count = f"{BINARY.write(after.binary_ops)} {BINARY.name}"
    return f"at {' and '.join(filter(None, (', '.join(savings), count)))}"


def counting(result: Result) -> str:
    """How the costs of a run are counted, in a sentence without its full stop."""
    text = "FLOPs are 2 × MACs of convolutions and linear layers for one image"
    if not (result.reference.binary_ops or result.final.binary_ops):
        return text
    return (
        f"{text}; {BINARY.name} are 1-bit MACs (XNOR and count), K for each weight and position, "
        "and not among the FLOPs"
    )


def written(evaluation: Evaluation, figures: Mapping[str, float | None]) -> str:
    """All figures of test images in a line: ``top-1 91.09 %, top-5 98.89 %``."""
    return ", ".join(
        f"{one.name} {numbers.percent(figures[one.field])}" for one in evaluation.figures
    )


def subject(result: Result) -> str:
    """Describe a run in one line: method, model, data set and what the method reads."""
    words = [f"{result.run.method}: {result.run.model} on {result.run.dataset}"]
    for key, value in result.settings.items():
        if value is None or value == "" or value == {} or value == []:
            continue
        if isinstance(value, dict):
            words.append(f"{key} per layer")
        else:
            words.append(said(key, value, key in result.sizes))
    return ", ".join(words)


def said(key: str, value: JSON, in_full: bool = False) -> str:
    """A setting in words: its value alone if that is a name that says enough.

    Args:
        key: Its name.
        value: Not empty.
        in_full: Whether its name is said in any case.
    """
    in_full = in_full or key in _NAMED or value in _ANYTHING
    if isinstance(value, str) and not in_full:
        return value
    return f"{key} {setting(value)}"


def command(result: Result, without: Collection[str], *added: str) -> str:
    """The command of a run with other settings.

    Args:
        result: Of the run.
        without: Groups and keys that are left out, with all that is below them.
        added: What is typed in their place.

    Raises:
        ThinetError: If it cannot be read.
    """
    try:
        words = shlex.split(result.run.command)
    except ValueError as error:
        raise ThinetError(
            f"the command in the result of {result.run.name} is damaged ({error}): repeat the run "
            "with resume=off."
        ) from error
    kept = (
        word
        for word in words
        if word.lstrip("+~").partition("=")[0].partition(".")[0] not in without
    )
    return shlex.join([*kept, *added])


def setting(value: JSON) -> str:
    """A value as Hydra's command line takes it: a number, a name, a mapping, a list."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{setting(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(setting, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def size(result: Result) -> str:
    """How small the model was to become: ``ratio 0.5``; empty if nothing says so."""
    return ", ".join(
        f"{key} {setting(result.settings[key])}"
        for key in result.sizes
        if result.settings.get(key) not in (None, {}, [], "")
    )


def peak_memory(steps: Sequence[StepRecord]) -> str:
    """Write the most memory a step took, and of what; nothing if no step measured it."""
    measured = [(step.peak_memory_mb, step.peak_memory_of) for step in steps if step.peak_memory_mb]
    if not measured:
        return ""
    most, what = max(measured)
    return f"{numbers.megabytes(most, 0)} at most ({what})"


def left_out(result: Result) -> str:
    """Say how many images could not be read; nothing if all could."""
    count = len(result.run.unreadable_images)
    if not count:
        return ""
    what = "an image was" if count == 1 else f"{count} images were"
    return f"{what} left out, being unreadable: result.json lists them"

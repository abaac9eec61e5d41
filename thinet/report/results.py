"""Finished runs as data: reading ``result.json`` and the comparisons every report shows."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinet.base.errors import ThinetError
from thinet.base.files import read_json
from thinet.report import numbers

FORMAT = 1


def read_result(folder: str | Path) -> dict[str, Any]:
    """Read the ``result.json`` of a finished run.

    Args:
        folder: The folder of the run, or the path of the file itself.

    Raises:
        ThinetError: If the run has not finished, or the file is not a result this version reads.
    """
    path = Path(folder)
    path = path if path.suffix == ".json" else path / "result.json"
    result = read_json(path)
    if not isinstance(result, dict) or not isinstance(result.get("baseline"), dict):
        raise ThinetError(f"{path} is not the result of a run: give the folder of a finished run.")
    if result.get("format") != FORMAT:
        raise ThinetError(
            f"{path} has format {result.get('format')} and this version reads format {FORMAT}: "
            "repeat the run, or install the version of thinet that wrote it."
        )
    return result


@dataclass(frozen=True)
class Comparison:
    """One line of the table baseline against slim network, ready to print."""

    label: str
    baseline: str
    slim: str
    change: str


def compare(result: dict[str, Any]) -> list[Comparison]:
    """Set the baseline against the slim network, one quantity a line.

    A run without a slim network (training only) leaves ``slim`` and ``change`` at ``n/a``.
    """
    before: dict[str, Any] = result["baseline"]
    after: dict[str, Any] = result.get("slim") or {}
    lines = []
    for label, key in (("top-1", "top1"), ("top-5", "top5")):
        old, new = before.get(key), after.get(key)
        lines.append(
            Comparison(label, numbers.percent(old), numbers.percent(new), numbers.points(old, new))
        )
    for label, key, write, less, more in (
        ("FLOPs", "flops", numbers.human, "fewer", "more"),
        ("MACs", "macs", numbers.human, "fewer", "more"),
        ("parameters", "params", numbers.human, "fewer", "more"),
        ("weights only", "weights", numbers.human, "fewer", "more"),
        ("size", "size_mb", numbers.megabytes, "smaller", "larger"),
        ("latency", "latency_ms", numbers.milliseconds, "faster", "slower"),
    ):
        old, new = before.get(key), after.get(key)
        difference = numbers.change(old, new, less, more)
        lines.append(Comparison(label, write(old), write(new), difference))
    return lines


def before_finetuning(result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """List the accuracies before the last fine-tuning, each with how BatchNorm was treated."""
    record = result.get("before_finetuning") or {}
    named = (
        ("without BatchNorm recalibration", record.get("plain")),
        ("with BatchNorm recalibration", record.get("recalibrated")),
    )
    return [(label, accuracy) for label, accuracy in named if accuracy]


def peak_memory(result: dict[str, Any]) -> str:
    """Write the most memory a stage took, and of what; nothing if no stage measured it."""
    measured = [stage for stage in result.get("stages") or [] if stage.get("peak_memory_mb")]
    if not measured:
        return ""
    most = max(measured, key=lambda stage: float(stage["peak_memory_mb"]))
    return f"{numbers.megabytes(most['peak_memory_mb'], 0)} at most ({most['peak_memory_of']})"


def pruned_layers(result: dict[str, Any]) -> list[dict[str, Any]]:
    """List the layers, one record each: a layer slimmed in several stages keeps its first width."""
    merged: dict[str, dict[str, Any]] = {}
    for record in result.get("layers") or []:
        first = merged.get(record["layer"], record)
        started = {key: value for key, value in first.items() if key.endswith("_before")}
        merged[record["layer"]] = {**record, **started}
    return list(merged.values())


def subject(result: dict[str, Any]) -> str:
    """Describe a run in one line: model, data set, criterion, reconstruction, schedule, ratio."""
    words = [f"{result.get('model')} on {result.get('dataset')}"]
    words += [str(result[key]) for key in ("criterion", "reconstruction") if result.get(key)]
    if result.get("schedule"):
        words.append(str(result["schedule"]))
    if isinstance(result.get("ratio"), int | float):
        words.append(f"ratio {result['ratio']}")
    elif isinstance(result.get("ratio"), str):
        words.append(f"target {result['ratio']}, {result.get('allocation')} allocation")
    elif result.get("ratio"):
        words.append("a ratio per layer")
    return ", ".join(words)


def headline(result: dict[str, Any]) -> str:
    """Say what the run achieved: accuracies of both networks and the saving in FLOPs."""
    before, after = result["baseline"], result.get("slim")
    if not after:
        top1 = numbers.percent(before.get("top1"))
        return f"{top1} top-1, {numbers.human(before['flops'])} FLOPs"
    saving = numbers.change(before["flops"], after["flops"], "fewer", "more")
    cost = "with FLOPs unchanged" if saving == "unchanged" else f"at {saving} FLOPs"
    return (
        f"{numbers.percent(before.get('top1'))} top-1 → "
        f"{numbers.percent(after.get('top1'))} top-1 {cost}"
    )


def command(result: dict[str, Any]) -> str:
    """Give the recorded command, or else one rebuilt from the settings named in the result."""
    recorded = result.get("command") or (result.get("environment") or {}).get("command")
    if recorded:
        return str(recorded) if isinstance(recorded, str) else shlex.join(recorded)
    words = ["python", "run.py"]
    for key in ("method", "model", "dataset", "criterion", "reconstruction", "schedule"):
        if result.get(key):
            words.append(f"{key}={result[key]}")
    if result.get("ratio") is not None:
        key = "target" if isinstance(result["ratio"], str) else "ratio"
        words.append(f"{key}={numbers.keep_ratio(result['ratio'])}")
    if result.get("seed") is not None:
        words.append(f"seed={result['seed']}")
    return shlex.join(words)

"""The runs of a page or a sweep, of any method: finished ones and those that failed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from thinet.base.errors import ThinetError
from thinet.base.evaluation import EVALUATIONS, Evaluation
from thinet.base.files import read_json
from thinet.base.records import JSON
from thinet.report.axes import AXES
from thinet.report.sections import Widths, sections
from thinet.report.table import setting, size
from thinet.run.result import RESULT, Measurement, Result, read_result

FAILURE = "failure.json"
NAMES = ("method", "model", "dataset")
"""What names a run besides the settings of its method."""
_NO_SETTING = (*NAMES, "name", "seed", "error")


@dataclass(frozen=True)
class Entry:
    """One run.

    Attributes:
        folder: Of the run.
        name: Of the run.
        names: Its method, model and data set, as far as known; data sets of other images have
            other names.
        settings: What its method reads.
        seed: Of everything random; None if not known.
        result: None if it failed.
        error: Why it failed.
        images: Digits for all images that it had; None if not known.
        widths: What is left of its layers, by what knows: a family.
        accuracies: What families have to say, by name.
        beside: Networks that were trained to compare with, by name.
        variant: The name of such a network, of which this entry tells in the place of the model.
        number: How a page calls it.
    """

    folder: Path
    name: str
    names: Mapping[str, str]
    settings: Mapping[str, JSON]
    seed: JSON = None
    result: Result | None = None
    error: str = ""
    images: str | None = None
    widths: tuple[Widths, ...] = ()
    accuracies: Mapping[str, float | None] = field(default_factory=dict)
    beside: Mapping[str, Measurement] = field(default_factory=dict)
    variant: str = ""
    number: int = 0

    @property
    def status(self) -> str:
        """``complete`` or ``failed``."""
        return "failed" if self.result is None else "complete"

    @property
    def evaluated(self) -> Evaluation | None:
        """What the figures of test images are called; None if it failed."""
        return self.result.evaluated if self.result else None

    @property
    def size(self) -> str:
        """How small the model was to become."""
        return size(self.result) if self.result else ""

    @property
    def sizes(self) -> tuple[str, ...]:
        """The settings that say so."""
        return self.result.sizes if self.result else ()

    def value(self, key: str) -> str | None:
        """A name or a setting as text; None if the run has none."""
        if key in NAMES:
            return self.names.get(key)
        found = self.seed if key == "seed" else self.settings.get(key)
        return None if found in (None, "") else setting(found)


def gather(folders: Iterable[str | Path]) -> list[Entry]:
    """Read the runs, in the order in which they are given; those under way are left out.

    Args:
        folders: Run folders, or folders whose sub-folders are runs.

    Raises:
        ThinetError: If there is nothing to show.
    """
    entries = [_read(folder) for folder in find_runs(folders)]
    if not entries:
        raise ThinetError(
            "none of the folders holds a finished run: give run folders, for example outputs/*."
        )
    told = _complete(_tell_apart(entries))
    return [replace(one, number=place) for place, one in enumerate(told, 1)]


def find_runs(folders: Iterable[str | Path]) -> list[Path]:
    """The folders of the runs that have ended, finished or failed, each once; see `gather`."""
    found: list[Path] = []
    for folder in map(Path, folders):
        if (folder / RESULT).exists() or (folder / FAILURE).exists():
            found.append(folder)
        else:
            ended = [*folder.glob(f"*/{RESULT}"), *folder.glob(f"*/{FAILURE}")]
            found += sorted({path.parent for path in ended})
    return list(dict.fromkeys(found))


def _read(folder: Path) -> Entry:
    """One run; a damaged file must not take the page of the others with it."""
    try:
        if (folder / RESULT).exists():
            return _finished(folder, read_result(folder))
        return _failed(folder, read_json(folder / FAILURE))
    except ThinetError as error:
        return _failed(folder, {"error": str(error)})


def _finished(folder: Path, result: Result) -> Entry:
    for one in (result.reference, result.final):
        try:
            sound = all(math.isfinite(float(one.figures()[axis.key] or 0)) for axis in AXES)
        except OverflowError:
            sound = False
        if not sound:
            raise ThinetError(
                f"{folder / RESULT} is damaged (costs are not finite): repeat the run with "
                "resume=off."
            )
    try:
        said = sections(result)
    except ThinetError:
        said = []  # a table of widths is no reason to lose the page
    run = result.run
    return Entry(
        folder, run.name, {"method": run.method, "model": run.model, "dataset": run.dataset},
        result.settings, run.seed, result, images=_digits(result.images),
        widths=tuple(one for one in (section.widths() for section in said) if one),
        accuracies={key: value for one in said for key, value in one.figures().items()},
        beside={name: network for one in said for name, network in one.beside().items()},
    )  # fmt: skip


def _failed(folder: Path, failure: object) -> Entry:
    """From what a sweep wrote of a point that failed: its names, seed, settings and error."""
    known = failure if isinstance(failure, dict) else {}
    return Entry(
        folder,
        str(known.get("name") or folder.name),
        {key: str(known[key]) for key in NAMES if known.get(key) is not None},
        {key: value for key, value in known.items() if key not in _NO_SETTING},
        known.get("seed"),
        error=str(known.get("error") or "failed"),
    )


def _digits(images: Mapping[str, str]) -> str | None:
    """Eight digits for all images that a run had; None if it does not say."""
    if not images:
        return None
    return hashlib.sha256(json.dumps(dict(images), sort_keys=True).encode()).hexdigest()[:8]


def _tell_apart(entries: Sequence[Entry]) -> list[Entry]:
    """Different images are different data sets, even if both are called ``folder``.

    Accuracies on them are not comparable; where a name stands for several, each gets its digits.
    """
    seen: dict[str | None, set[str]] = {}
    for one in entries:
        if one.images is not None:
            seen.setdefault(one.names.get("dataset"), set()).add(one.images)
    return [
        replace(one, names={**one.names, "dataset": f"{one.names.get('dataset')} {one.images}"})
        if one.images is not None and len(seen[one.names.get("dataset")]) > 1
        else one
        for one in entries
    ]


def evaluations(entries: Iterable[Entry]) -> list[Evaluation]:
    """How the test images of the finished runs were evaluated, in a fixed order."""
    known = {one.evaluated for one in entries}
    return [one for one in EVALUATIONS.values() if one in known] or [*EVALUATIONS.values()][:1]


def _complete(entries: Sequence[Entry]) -> list[Entry]:
    """Say what goes without saying where it does not for others: ``distill none`` beside ``kd``.

    A result does not tell the usual option of a group; its configuration does.
    """
    keys = settings_of(entries)
    found = []
    for one in entries:
        config = one.result.config if one.result else {}
        parts = {key: config.get(key) for key in keys if one.value(key) is None}
        options = {key: part.get("name") for key, part in parts.items() if isinstance(part, dict)}
        usual = {key: name for key, name in options.items() if isinstance(name, str)}
        found.append(replace(one, settings={**one.settings, **usual}))
    return found


def settings_of(entries: Iterable[Entry]) -> list[str]:
    """The settings that at least one run has, those that say how small it becomes at the end."""
    known = list(entries)
    sizes = dict.fromkeys(key for one in known for key in one.sizes)
    others = dict.fromkeys(key for one in known for key in one.settings if key not in sizes)
    sizes = {key: None for key in sizes if any(one.value(key) is not None for one in known)}
    return [*others, *sizes]


def varied(entries: Sequence[Entry], keys: Iterable[str]) -> list[str]:
    """Those of some names and settings that differ between runs.

    That a run of another method has no such setting, or that one that failed does not say, is no
    difference.
    """
    return [key for key in keys if _differs(entries, key)]


def _differs(entries: Sequence[Entry], key: str) -> bool:
    values = {one.value(key) for one in entries}
    if len(values - {None}) > 1:
        return True
    finished = [one for one in entries if one.result]
    by_method: dict[str, set[bool]] = {}
    for one in finished:
        by_method.setdefault(one.names["method"], set()).add(one.value(key) is None)
    return any(len(found) > 1 for found in by_method.values())


def check_protocols(tested: Iterable[tuple[str, str, JSON]]) -> None:
    """Refuse to compare accuracies on images that were resized in different ways.

    The same network's accuracy differs by points between the two protocols of the ThiNet paper.

    Args:
        tested: For each run its data set, its name and ``dataset.resize`` (None: not known).

    Raises:
        ThinetError: If runs on one data set used different protocols.
    """
    first: dict[str, tuple[str, JSON]] = {}
    for dataset, name, resize in tested:
        if resize is None:
            continue
        other, earlier = first.setdefault(dataset, (name, resize))
        if earlier != resize:
            raise ThinetError(
                f"accuracies under two evaluation protocols cannot be compared ({other} was tested "
                f"with dataset.resize={earlier}, {name} with dataset.resize={resize}): give runs "
                "of one protocol, or repeat the others with it."
            )

"""What a family of methods may say of a run, beyond what every method says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from thinet.report import numbers
from thinet.report.table import Table
from thinet.run.result import Measurement, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

D = TypeVar("D", covariant=True)


@dataclass(frozen=True)
class Plot:
    """A figure that can be drawn: ``name`` is that of its file, without the ending."""

    name: str
    caption: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Picture:
    """A figure that lies in the folder of a run: it was drawn while the run was under way."""

    caption: str
    path: Path


@dataclass(frozen=True)
class Width:
    """What is left of a layer.

    Attributes:
        share: In [0, 1].
        text: In the cell of a table.
        title: In full.
        full: The layer's width before, if it is known.
    """

    share: float
    text: str
    title: str
    full: int | None = None


@dataclass(frozen=True)
class Widths:
    """The layers of one run, by name; ``label`` says what they are, if they were not cut so."""

    layers: Mapping[str, Width]
    label: str = ""


@dataclass(frozen=True)
class StepFigure:
    """How a figure of a step is shown: the head of its column, the name of its line in a chart."""

    head: str
    line: str = ""
    write: Callable[[float | None], str] = numbers.percent


@dataclass(frozen=True)
class Section(Generic[D]):
    """One family's part of a result. A family defines what it has; the rest is empty.

    Attributes:
        result: The result.
        found: Its details.
        key: Where they stand in :attr:`Result.details`.
        kind: The dataclass that they are read into.
        step_figures: Figures of the family's steps, by name; those of accuracy have a line, and
            those without a head are not shown.
        accuracies: What :meth:`figures` gives, by name, each with the head of its column.
    """

    result: Result
    found: D
    key: ClassVar[str]
    kind: ClassVar[type[object]]
    step_figures: ClassVar[Mapping[str, StepFigure]] = {}
    accuracies: ClassVar[Mapping[str, str]] = {}

    def lines(self) -> Sequence[str]:
        """Sentences for the page and the terminal."""
        return ()

    def tables(self) -> Sequence[Table]:
        """Tables for the page; those that are brief are shown on the terminal too."""
        return ()

    def plots(self) -> Sequence[Plot]:
        """Figures that are drawn from the result alone."""
        return ()

    def logged(self, folder: Path) -> Sequence[Plot]:
        """Figures that are drawn from what was logged in the run's folder, if it was."""
        return ()

    def pictures(self, figures: Path) -> Sequence[Picture]:
        """Figures that lie in the run's folder of figures already."""
        return ()

    def files(self) -> Mapping[str, str]:
        """Text files that a run leaves: name and content."""
        return {}

    def widths(self) -> Widths | None:
        """For a map of many runs."""
        return None

    def figures(self) -> Mapping[str, float | None]:
        """Accuracies for the table of many runs, by name."""
        return {}

    def beside(self) -> Mapping[str, Measurement]:
        """Networks that were trained to compare with, by name: lines of their own of many runs."""
        return {}

"""A family is added by a module, and nothing else is edited."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.report.conftest import pruned, scanned, scratch, toy, trained, write_run
from thinet.report import compare_report, draw_figures, print_result, write_files, write_report
from thinet.report import sections as package
from thinet.report.many.runs import gather
from thinet.report.sections import families, sections

TOY = """
from dataclasses import dataclass
from typing import ClassVar

from thinet.report import style
from thinet.report.sections import Plot, Section, StepFigure, Width, Widths
from thinet.report.table import Table


@dataclass(frozen=True)
class ToyDetails:
    word: str


@dataclass(frozen=True)
class Toy(Section[ToyDetails]):
    key: ClassVar = "toy"
    kind: ClassVar = ToyDetails
    step_figures: ClassVar = {"residual": StepFigure("what is left", "one minus it")}
    accuracies: ClassVar = {"top1_toy": "toy accuracy"}

    def lines(self):
        return [f"a toy says {self.found.word}"]

    def tables(self):
        return [Table("Toys", ("toy", "word"), (("bear", self.found.word),), brief=True)]

    def plots(self):
        return [Plot("toys", "Toys.", lambda: style.new_figure(4, 3, "toys", "")[0])]

    def files(self):
        return {"toy.csv": self.found.word}

    def widths(self):
        return Widths({"bear": Width(0.5, "half a bear", "of a bear")}, "toys")

    def figures(self):
        return {"top1_toy": 0.4321}
"""


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of a toy family, as if it lay in the package of sections."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "toy.py").write_text(TOY)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "elsewhere")])
    yield
    sys.modules.pop("thinet.report.sections.toy", None)
    vars(package).pop("toy", None)


def test_families_are_found_by_listing() -> None:
    assert [one.key for one in families()] == [
        "distillation", "pruning", "quantization", "search", "sensitivity", "synthesis",
    ]  # fmt: skip


def test_a_section_knows_its_key_and_no_other() -> None:
    found = [[one.key for one in sections(result)] for result in (pruned(1), scanned(), trained())]
    assert found == [["pruning"], ["sensitivity"], []]
    assert [one.key for one in sections(scratch())] == ["pruning"]
    assert sections(toy()) == []


@pytest.mark.usefixtures("family")
def test_a_new_family_is_everywhere(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", toy())
    assert [path.name for path in write_files(toy(), folder)] == ["toy.csv"]
    assert (folder / "toy.csv").read_text() == "hello"
    assert [one.name for one in draw_figures(toy(), folder / "figures")] == [
        "accuracy.png", "toys.png",
    ]  # fmt: skip
    page = write_report(toy(), folder).read_text()
    for text in ("a toy says hello", "<h2>Toys</h2>", "<td>bear</td>", "what is left", "Toys."):
        assert text in page

    console = Console(width=120, record=True, file=io.StringIO())
    print_result(toy(), console)
    text = console.export_text()
    assert "a toy says hello" in text
    assert "bear" in text

    out = compare_report([folder, write_run(tmp_path / "other", pruned(1))], tmp_path / "out")
    page = out.read_text()
    for text in ("toy accuracy", "43.21 %", "half a bear", "bear: of a bear"):
        assert text in page
    assert "top1_toy" in (tmp_path / "out" / "sweep.csv").read_text().splitlines()[0]


@pytest.mark.usefixtures("family")
def test_damaged_details_do_not_take_the_page_of_the_others(tmp_path: Path) -> None:
    result = toy(details={"toy": {"word": 3}})
    (entry,) = gather([write_run(tmp_path / "run", result)])
    assert (entry.status, entry.widths, entry.accuracies) == ("complete", (), {})

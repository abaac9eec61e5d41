from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.report.conftest import (
    measurement,
    pruned,
    scanned,
    scratch,
    toy,
    trained,
    write_failure,
    write_run,
)
from thinet.base.errors import ThinetError
from thinet.report import compare_report, write_report

EVIL = "<script>alert('1')</script>"


class Page(HTMLParser):
    """The tags, the addresses and the text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.cells: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags[-1:] == ["td"] and data.strip():
            self.cells.append(data.strip())


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    path = write_report(pruned(6), tmp_path)
    page = Page(path)

    assert path == tmp_path / "report.html"
    assert list(tmp_path.iterdir()) == [path]
    assert len(page.addresses) == 3
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "http://" not in path.read_text()
    assert "https://" not in path.read_text()
    assert "@import" not in path.read_text()


def test_the_page_tells_the_run(tmp_path: Path) -> None:
    result = pruned(6, command="python run.py model=vgg16 ratio=0.3", note="a first try")
    page = Page(write_report(result, tmp_path))

    for text in (
        "98.89 % top-1 → 97.69 % top-1 at 3.23x fewer FLOPs",
        "python run.py model=vgg16 ratio=0.3",
        "a first try",
        "image_size: 224",
        "torch: 2.11.0",
        "28.40 %",
        "66.20 %",
    ):
        assert text in page.text
    for step in result.steps:
        assert step.name in page.cells
    assert "64 → 19" in page.cells


def test_nothing_from_a_result_becomes_markup(tmp_path: Path) -> None:
    result = pruned(
        1, name=EVIL, note=EVIL, network=EVIL, command=EVIL, config={EVIL: EVIL},
        environment={"device": EVIL}, unreadable_images=(EVIL,), protocol={"resize": EVIL},
        reference_is=EVIL, criterion=EVIL,
    )  # fmt: skip
    (step,) = result.steps
    details = {"pruning": {"layers": [result.details["pruning"]["layers"][0] | {"layer": EVIL}]}}
    result = replace(result, steps=(replace(step, name=EVIL),), details=details)
    page = Page(write_report(result, tmp_path))

    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 12  # and all of it is still there to read


def test_a_run_that_only_trains_says_nothing_of_pruning(tmp_path: Path) -> None:
    page = Page(write_report(trained(), tmp_path))

    assert "98.89 % top-1, 30.94 B FLOPs" in page.text
    assert "img" not in page.tags
    for word in ("slim", "ThiNet", "thinet,", "ratio", "schedule", "criterion", "removed", "cut"):
        assert word not in page.text.replace("Configuration", "")
    assert {"training", "1 min 01 s", "512 MB", "98.39 %"} <= set(page.cells)


def test_a_run_whose_family_has_no_section_is_shown_all_the_same(tmp_path: Path) -> None:
    page = Page(write_report(toy(), tmp_path))

    saved = "at 24.43x fewer bits of parameters, 20.00x fewer FLOPs and 1.90 M binary operations"
    assert f"95.00 % top-1 → 90.00 % top-1 {saved}" in page.text
    assert "binarize: vgg16 on digits, toy, order 2" in page.text
    assert {"order 2", "0.1667", "24.43x fewer", "1.90 M"} <= set(page.cells)
    assert page.tags.count("img") == 1
    assert "image_size: 224" in page.text


def test_what_went_wrong_with_images_and_how_they_were_tested_is_told(tmp_path: Path) -> None:
    result = trained(unreadable_images=("cats/1.png", "dogs/2.png"))
    page = Page(write_report(result, tmp_path))

    for text in ("2 images were left out", "cats/1.png", "dogs/2.png", "resize: keep",
                 "Peak memory: 512 MB at most (process)"):  # fmt: skip
        assert text in page.text


def test_comparison_of_runs(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / f"run{place}", pruned(2, criterion=criterion, name=EVIL))
        for place, criterion in enumerate(("thinet", EVIL))
    ]
    failed = write_failure(tmp_path / "run2", error=f"{EVIL} broke.")
    (folders[0] / "report.html").touch()

    path = compare_report([*folders, failed], tmp_path / "out")
    page = Page(path)

    assert path.name == "comparison.html"
    assert {p.name for p in path.parent.iterdir()} == {"comparison.html", "sweep.csv", "sweep.png"}
    assert {"thinet", EVIL, f"{EVIL} broke.", "-1.20"} <= set(page.cells)
    assert "vgg16" not in page.cells  # what all runs share is no column
    assert page.tags.count("script") == 1  # our own, which sorts and filters
    assert not {"link", "iframe", "img"} & set(page.tags)
    assert page.addresses == [
        "./../run0/report.html", "./../run0/", "./../run1/", "./../run1/", "./../run2/",
        "./../run2/",
    ]  # fmt: skip
    for address in page.addresses:
        assert (path.parent / address).exists()


def test_a_folder_cannot_leave_its_link(tmp_path: Path) -> None:
    """No browser takes the name of a folder for a scheme, a query or the end of an attribute."""
    names = ["javascript:alert(1)", "a\"onclick='b", "</script><script>alert(1)<", "a?b#c%41"]
    names = [name.replace("/", "_") for name in names]
    folders = [write_run(tmp_path / name, pruned(2)) for name in names]

    page = Page(compare_report(folders, tmp_path))

    assert page.tags.count("script") == 1
    assert all(address.startswith("./") for address in page.addresses)
    assert [unquote(address) for address in page.addresses[::2]] == [f"./{x}/" for x in names]
    assert not set("?#:\"'<> ") & set("".join(page.addresses))


def test_the_script_is_the_one_that_the_page_allows(tmp_path: Path) -> None:
    text = compare_report([write_run(tmp_path / "a", pruned(2))], tmp_path).read_text()
    (allowed,) = re.findall(r"script-src 'sha256-([^']+)'", text)
    script = text.partition("<script>")[2].partition("</script>")[0]
    assert base64.b64decode(allowed) == hashlib.sha256(script.encode()).digest()
    assert "default-src 'none'" in text


def test_every_method_stands_on_one_page(tmp_path: Path) -> None:
    results = {"a": pruned(2), "b": trained(), "c": scratch(), "d": scanned(), "e": toy()}
    folders = [write_run(tmp_path / name, result) for name, result in results.items()]

    path = compare_report([*folders, write_failure(tmp_path / "f", error="no.")], tmp_path / "out")
    page = Page(path)

    methods = {"prune", "train", "scratch", "sensitivity", "binarize"}
    assert methods | {"n/a", "10 %", "93 %", "no.", "65.50 K"} <= set(page.cells)
    marks = path.read_text().count('class="mark')
    charts = page.tags.count("svg") - len(results)  # each line has one in the legend
    assert charts == 5
    # The latency of the toy is not known, and it alone has binary operations.
    assert marks == 3 * 5 + 4 + 1


def test_runs_that_only_train_are_compared_too(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / f"r{seed}", trained(seed=seed, reference=measurement(top1)))
        for seed, top1 in enumerate((0.9, 0.92))
    ]
    text = compare_report(folders, tmp_path / "out").read_text()
    assert "train: 91.00 % (mean of 2 runs), 0.0 % removed" in text
    for word in ("criterion</button>", "ratio</button>", "schedule", "n/a"):
        assert word not in text


def test_comparison_of_nothing_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ThinetError, match="give run folders"):
        compare_report([tmp_path], tmp_path)

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from thinet.base.errors import ThinetError
from thinet.report.html import compare_report, write_report

Make = Callable[..., dict[str, Any]]
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


def test_the_page_is_self_contained(make_result: Make, tmp_path: Path) -> None:
    path = write_report(make_result(6), tmp_path)
    page = Page(path)

    assert path == tmp_path / "report.html"
    assert list(tmp_path.iterdir()) == [path]
    assert len(page.addresses) == 3
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "http://" not in path.read_text()
    assert "https://" not in path.read_text()
    assert "@import" not in path.read_text()


def test_the_page_tells_the_run(make_result: Make, tmp_path: Path) -> None:
    result = make_result(6, command="python run.py model=vgg16 ratio=0.3", note="a first try")
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
    for stage in result["stages"]:
        assert stage["name"] in page.cells
    assert "64 → 19" in page.cells


def test_nothing_from_a_result_becomes_markup(make_result: Make, tmp_path: Path) -> None:
    result = make_result(
        1, name=EVIL, note=EVIL, model=EVIL, command=EVIL, config={EVIL: EVIL},
        environment={"device": EVIL},
    )  # fmt: skip
    result["stages"][0]["name"] = result["layers"][0]["layer"] = EVIL
    page = Page(write_report(result, tmp_path))

    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 8  # and all of it is still there to read


def test_a_run_that_only_trains(make_result: Make, tmp_path: Path) -> None:
    result = make_result(0, slim=None, before_finetuning=None, criterion=None, ratio=None)
    page = Page(write_report(result, tmp_path))

    assert "98.89 % top-1, 30.94 B FLOPs" in page.text
    assert "img" not in page.tags
    assert "slim" not in page.text


def write_run(folder: Path, result: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_comparison_of_runs(make_result: Make, tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / f"run{place}", make_result(2, criterion=criterion, name=EVIL))
        for place, criterion in enumerate(("thinet", EVIL))
    ]
    failed = tmp_path / "run2"
    failed.mkdir()
    (failed / "failure.json").write_text(json.dumps({"name": "x", "error": f"{EVIL} broke."}))
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


def test_a_folder_cannot_leave_its_link(make_result: Make, tmp_path: Path) -> None:
    """No browser takes the name of a folder for a scheme, a query or the end of an attribute."""
    names = ["javascript:alert(1)", "a\"onclick='b", "</script><script>alert(1)<", "a?b#c%41"]
    names = [name.replace("/", "_") for name in names]
    folders = [write_run(tmp_path / name, make_result(2)) for name in names]

    page = Page(compare_report(folders, tmp_path))

    assert page.tags.count("script") == 1
    assert all(address.startswith("./") for address in page.addresses)
    assert [unquote(address) for address in page.addresses[::2]] == [f"./{x}/" for x in names]
    assert not set("?#:\"'<> ") & set("".join(page.addresses))


def test_the_script_is_the_one_that_the_page_allows(make_result: Make, tmp_path: Path) -> None:
    text = compare_report([write_run(tmp_path / "a", make_result(2))], tmp_path).read_text()
    (allowed,) = re.findall(r"script-src 'sha256-([^']+)'", text)
    script = text.partition("<script>")[2].partition("</script>")[0]
    assert base64.b64decode(allowed) == hashlib.sha256(script.encode()).digest()
    assert "default-src 'none'" in text


def test_any_method_is_a_row_and_what_it_has_not_is_na(make_result: Make, tmp_path: Path) -> None:
    trained = make_result(0, method="train", slim=None, before_finetuning=None)
    scratch = make_result(2, method="scratch", before_finetuning=None)
    scratch["baseline"] |= {"top1": None, "top5": None}
    scan = make_result(0, method="sensitivity", slim=None, before_finetuning=None) | {
        "sensitivity": {"suggestion": {"features.0": 0.25, "features.3": 0.75}}
    }
    results = {"a": make_result(2), "b": trained, "c": scratch, "d": scan}
    folders = [write_run(tmp_path / name, result) for name, result in results.items()]

    page = Page(compare_report(folders, tmp_path / "out"))

    assert {"prune", "train", "scratch", "sensitivity", "n/a", "25 %", "75 %"} <= set(page.cells)


def test_comparison_of_nothing_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ThinetError, match="give run folders"):
        compare_report([tmp_path], tmp_path)

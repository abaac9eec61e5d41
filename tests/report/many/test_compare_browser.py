"""The comparison page in a real headless browser: Debian's chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser import CHROMIUM, Browser
from tests.report.conftest import measurement, pruned, trained, write_failure, write_run
from tests.report.searched import searched
from thinet.report import compare_report, write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

EVIL = "</script><script>document.title='hacked'</script>\"'><img src=x onerror=alert(1)>"
TOP1 = {("thinet", 0.3): 0.91, ("thinet", 0.7): 0.97, ("random", 0.3): 0.80, ("random", 0.7): 0.99}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture
def page(tmp_path: Path, browser: Browser) -> Path:
    """Five runs, one that only trains, a failed one, and names that try to be markup."""
    browser.errors.clear()
    browser.requests.clear()
    results = {
        f"{criterion}-{ratio}": pruned(
            3, criterion=criterion, ratio=ratio, name=EVIL, note=EVIL, top1=top1, share=ratio,
            config={"ratio": ratio, EVIL: criterion},
        )
        for (criterion, ratio), top1 in TOP1.items()
    }  # fmt: skip
    results["train"] = trained(reference=measurement(0.9889, latency_ms=None))
    results[EVIL.replace("/", "_")] = pruned(2, criterion=EVIL, ratio={EVIL: 0.5})
    for name, result in results.items():
        write_run(tmp_path / name, result)
    write_failure(
        tmp_path / "failed", name=EVIL, method="prune", criterion="lasso", ratio=0.5,
        error=f"{EVIL} broke.",
    )  # fmt: skip
    return compare_report([tmp_path], tmp_path / "out")


def place(name: str) -> str:
    """Which column has this head, as an expression in the page."""
    return (
        "[...document.querySelectorAll('#runs th')]"
        f".findIndex(h => h.innerText.startsWith({json.dumps(name)}))"
    )


def shown(browser: Browser) -> list[str]:
    return list(
        browser.run(
            "[...document.querySelectorAll('#runs tbody tr')].filter(r => !r.hidden)"
            f".map(r => [{place('criterion')}, {place('ratio')}]"
            ".map(i => r.cells[i].innerText).join(' '))"
        )
    )


def accuracies(browser: Browser) -> list[str]:
    place = browser.run(
        "[...document.querySelectorAll('#runs th')].findIndex(h => /^top-1/.test(h.innerText))"
    )
    return list(
        browser.run(
            f"[...document.querySelectorAll('#runs tbody tr')].map(r => r.cells[{place}])"
            ".map(c => c && c.colSpan == 1 ? c.innerText : '')"
        )
    )


def head(browser: Browser, name: str) -> str:
    place = browser.run(
        "[...document.querySelectorAll('#runs th')]"
        f".findIndex(h => h.innerText.startsWith({json.dumps(name)}))"
    )
    return f"#runs th:nth-child({place + 1})"


def state(browser: Browser, selector: str) -> str:
    return str(browser.run(f"document.querySelector({json.dumps(selector)}).ariaSort"))


def in_peace(browser: Browser, page: Path) -> None:
    """Nothing went wrong in the page, and it asked for nothing but itself."""
    assert browser.errors == []
    assert set(browser.requests) == {page.resolve().as_uri()}
    assert browser.run("document.title").endswith("thinet")


def test_it_renders_without_errors_or_requests(page: Path, browser: Browser) -> None:
    browser.open(page)
    assert browser.run("document.querySelectorAll('svg.chart').length") == 3
    assert browser.run("document.querySelectorAll('svg.chart .mark').length") == 3 * 6
    assert browser.run("document.querySelectorAll('#runs tbody tr').length") == 7
    assert browser.run("document.getElementById('count').innerText") == "7 of 7 shown"
    assert browser.run("document.querySelectorAll('script').length") == 1
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run("document.body.innerText").count("hacked") > 5  # as text, to be read
    box = browser.run(
        "(() => { const b = document.querySelector('svg .mark path').getBoundingClientRect();"
        "return [b.width, b.height]; })()"
    )
    assert min(box) > 4
    in_peace(browser, page)


def test_a_header_sorts_by_number_and_says_so(page: Path, browser: Browser) -> None:
    browser.open(page)
    top1 = head(browser, "top-1")
    assert state(browser, top1) == "none"

    browser.click(f"{top1} button")
    values = accuracies(browser)
    assert values[-1] == ""  # the failed run is last
    assert values[:-1] == sorted(values[:-1], key=lambda text: float(text.split()[0]))
    assert state(browser, top1) == "ascending"
    assert state(browser, head(browser, "#")) == "none"

    browser.press("Enter", 13, "\r")  # the button has the focus
    values = accuracies(browser)
    assert values[0] == "99.00 %"
    assert values[-1] == ""
    assert state(browser, top1) == "descending"
    in_peace(browser, page)


def test_text_and_folders_sort_too(page: Path, browser: Browser) -> None:
    browser.open(page)
    for name in ("criterion", "folder"):
        browser.click(f"{head(browser, name)} button")
        place = f"document.querySelector({json.dumps(head(browser, name))}).cellIndex"
        values = browser.run(
            "[...document.querySelectorAll('#runs tbody tr')].map(r => "
            f"({place} < r.cells.length ? r.cells[{place}] : r.lastElementChild).innerText)"
        )
        known = [value for value in values if value != "–"]
        assert known == browser.run(
            f"{json.dumps(known)}.sort((a, b) => a.localeCompare(b, undefined, {{numeric: true}}))"
        )
        assert "–" not in values[: len(known)]


def test_typing_filters_table_and_curves(page: Path, browser: Browser) -> None:
    browser.open(page)
    browser.click("#filter")
    browser.type("criterion=thinet ratio=0.7")
    assert shown(browser) == ["thinet 0.7"]
    assert browser.run("document.getElementById('count').innerText") == "1 of 7 shown"
    lit = "document.querySelectorAll('svg.chart .mark:not(.off)').length"
    assert browser.run(lit) == 3

    browser.run("document.getElementById('filter').select()")
    browser.type("random")
    assert shown(browser) == ["random 0.3", "random 0.7"]
    browser.run("document.getElementById('filter').select()")
    browser.type("<img src=nothing")
    assert shown(browser) == []
    in_peace(browser, page)


def test_the_legend_filters_by_keyboard(page: Path, browser: Browser) -> None:
    browser.open(page)
    key = "[...document.querySelectorAll('button.key')].find(b => b.innerText === 'prune, random')"
    browser.run(f"{key}.focus()")
    browser.press(" ", 32, " ")
    assert browser.run(f"{key}.ariaPressed") == "true"
    assert shown(browser) == ["random 0.3", "random 0.7"]
    browser.press(" ", 32, " ")
    assert len(shown(browser)) == 7


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("dark", [True, False])
def test_a_phone_and_the_dark(
    single: bool, dark: bool, page: Path, browser: Browser, tmp_path: Path
) -> None:
    """Nothing is wider than the phone, and all text keeps the contrast that WCAG AA asks for."""
    if single:
        page = write_report(pruned(3, name=EVIL), tmp_path / "train")
    browser.open(page, width=360, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= 360
    colors = browser.run(
        "[...document.querySelectorAll('h1, p.lead, th, td, .chart text, figcaption, a, pre')]"
        ".map(e => getComputedStyle(e)).map(s => s.fill != 'rgb(0, 0, 0)' ? s.fill : s.color)"
    )
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(rgb(background)) < 150) is dark
    assert min(contrast(color, background) for color in set(colors)) > 4.5
    if not single:  # all colours, also those that so few runs do not need
        lines = browser.run(
            "[0, 1, 2, 3, 4, 5].map(i => { const e = document.querySelector('.way');"
            "e.setAttribute('class', `way s${i}`); return getComputedStyle(e).stroke; })"
        )
        assert len(set(lines)) == 6
        assert all(contrast(color, background) > 3 for color in lines)
    assert browser.errors == []


def rgb(color: str) -> list[float]:
    return [float(part) for part in color.partition("(")[2].rstrip(")").split(",")[:3]]


def contrast(one: str, other: str) -> float:
    """By the definition of WCAG 2."""

    def light(color: str) -> float:
        parts = [part / 255 for part in rgb(color)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((light(one), light(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_a_line_beside_the_models_is_chosen_alone(tmp_path: Path, browser: Browser) -> None:
    for name, result in {"search": searched(), "pruned": pruned(2, share=0.4)}.items():
        write_run(tmp_path / name, result)
    browser.open(compare_report([tmp_path], tmp_path / "out"))
    lit = "[...document.querySelectorAll('svg.chart .mark:not(.off)')].map(m => m.dataset.way)"
    assert set(browser.run(lit)) == {"0-0", "0-1", "0-2"}

    keys = "[...document.querySelectorAll('button.key')]"
    browser.run(f"{keys}.find(b => b.innerText.endsWith('uniform widths')).click()")
    assert set(browser.run(lit)) == {"0-2"}
    assert browser.run("document.getElementById('count').innerText") == "1 of 2 shown"
    browser.run(f"{keys}.find(b => b.innerText === 'metaprune').click()")
    assert set(browser.run(lit)) == {"0-1", "0-2"}

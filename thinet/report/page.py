"""``report.html``: one file that shows a run, without any network access."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thinet.base.files import write_text_atomic
from thinet.base.records import JSON
from thinet.report import numbers, style
from thinet.report.figures import run_plots
from thinet.report.sections import Section, sections
from thinet.report.steps import step_table
from thinet.report.table import Table, counting, headline, lead, left_out, subject, summary
from thinet.report.template import template
from thinet.run.result import Result


@dataclass(frozen=True)
class Embedded:
    """An image as a data URI.

    ``width`` is in CSS pixels, so that 9 pt are 9 pt on the page.
    """

    image: str
    width: int
    caption: str


@dataclass(frozen=True)
class RunPage:
    """What ``report.html.jinja`` shows."""

    title: str
    headline: str
    subject: str
    note: str
    summary: Table
    lead: str
    leading: list[Table]
    figures: list[Embedded]
    lines: list[str]
    tables: list[Table]
    pictures: list[Embedded]
    command: str
    protocol: str
    config: str
    environment: dict[str, JSON]
    unreadable: tuple[str, ...]


def write_report(result: Result, folder: str | Path) -> Path:
    """Write ``report.html`` of one run into ``folder``, atomically; figures are embedded.

    Args:
        result: The result.
        folder: The run folder.
    """
    page = template("report.html.jinja").render(**vars(run_page(result, Path(folder))))
    return write_text_atomic(Path(folder) / "report.html", page)


def run_page(result: Result, folder: Path) -> RunPage:
    """What the page shows.

    Args:
        result: The result.
        folder: The run folder, with what was logged and drawn during the run.
    """
    said = sections(result)
    tables = [table for one in said for table in one.tables()]
    return RunPage(
        title=result.run.name or "run",
        headline=headline(result),
        subject=subject(result),
        note=result.run.note or "",
        summary=summary(result),
        lead=_lead(result),
        leading=[table for table in tables if table.leading],
        figures=[
            _embed(style.png(one.draw()), one.caption) for one in run_plots(result, said, folder)
        ],
        lines=[line for section in said for line in section.lines()],
        tables=_steps(result, said) + [table for table in tables if not table.leading],
        pictures=[
            _embed(one.path.read_bytes(), one.caption)
            for section in said
            for one in section.pictures(folder / "figures")
        ],
        command=result.run.command,
        protocol=", ".join(f"{key}: {value}" for key, value in result.protocol.items()),
        config=_yaml(result.config),
        environment=result.environment,
        unreadable=result.run.unreadable_images,
    )


def _lead(result: Result) -> str:
    first = lead(result)
    text = (
        f"{first[0].upper()}{first[1:]}; {counting(result)}. "
        f"{numbers.seconds(result.run.seconds)} in all."
    )
    missing = left_out(result)
    return f"{text} {missing[0].upper()}{missing[1:]}." if missing else text


def _steps(result: Result, said: Sequence[Section[object]]) -> list[Table]:
    steps = step_table(result, said)
    return [steps] if steps else []


def _embed(png: bytes, caption: str) -> Embedded:
    (pixels,) = struct.unpack(">I", png[16:20])  # a PNG states its width after the IHDR tag
    image = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return Embedded(image, round(pixels * 96 / style.DPI), caption)


def _yaml(config: dict[str, JSON]) -> str:
    import yaml

    return str(yaml.safe_dump(config, sort_keys=False, default_flow_style=None, allow_unicode=True))

"""``report.html``: one file that shows a run, or compares several, without any network access."""

from __future__ import annotations

import base64
import hashlib
import struct
from importlib import resources
from pathlib import Path
from typing import Any

from thinet.base.files import write_text_atomic
from thinet.report import numbers, style
from thinet.report.compare_page import compare_page
from thinet.report.comparison import gather
from thinet.report.figures import run_figures
from thinet.report.inspection import INSPECTION, inspections
from thinet.report.results import (
    before_finetuning,
    command,
    compare,
    headline,
    peak_memory,
    pruned_layers,
    subject,
)
from thinet.report.sensitivity import sensitivity_lines
from thinet.report.sweep import write_sweep

CAPTIONS = {
    "accuracy": "Top-1 accuracy after each stage, on validation images.",
    "cost": "FLOPs and parameters that remain after each stage.",
    "widths": "Filters of each pruned layer, before and after.",
    "sensitivity_curves": "Top-1 accuracy with one layer cut to a fraction of its filters and "
    "nothing fine-tuned, on validation images; each marker is a measurement.",
    "sensitivity_heatmap": "Points of top-1 accuracy lost by the same cuts, and the ratio "
    "suggested for each layer so that all together meet the budget.",
}


def write_report(result: dict[str, Any], folder: str | Path) -> Path:
    """Write ``report.html`` of one run into ``folder``, atomically; figures are embedded.

    Args:
        result: Content of ``result.json``.
        folder: The run folder.
    """
    figures = [
        {**_embed(style.png(figure)), "caption": CAPTIONS[name]}
        for name, figure in run_figures(result)
    ]
    page = _template("report.html.jinja").render(
        title=result.get("name") or "run",
        headline=headline(result),
        subject=subject(result),
        command=command(result),
        lines=compare(result),
        has_slim=bool(result.get("slim")),
        before_finetuning=before_finetuning(result),
        figures=figures,
        inspections=[
            {**_embed(path.read_bytes()), "caption": f"{layer}: {INSPECTION}"}
            for layer, path in inspections(result, Path(folder) / "figures")
        ],
        lines_below=sensitivity_lines(result) if result.get("sensitivity") else [],
        stages=result.get("stages") or [],
        memory=peak_memory(result),
        layers=pruned_layers(result),
        config=_yaml(result.get("config") or {}),
        environment=result.get("environment") or {},
        duration=numbers.seconds(result.get("seconds")),
        note=result.get("note"),
        n=numbers,
    )
    return write_text_atomic(Path(folder) / "report.html", page)


def compare_report(folders: list[Path], out: str | Path) -> Path:
    """Write ``comparison.html`` with ``sweep.csv`` and ``sweep.png`` over several runs.

    Args:
        folders: Run folders, or folders that hold run folders.
        out: Folder to write to.

    Returns:
        The page.

    Raises:
        ThinetError: If none of them holds a finished run, or if their accuracies were measured
            under different protocols.
    """
    entries = gather(folders)
    write_sweep(folders, out)
    script = resources.files("thinet.report").joinpath("templates/compare.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _template("compare.html.jinja").render(
        **compare_page(entries, Path(out)), script=script, digest=digest, n=numbers
    )
    return write_text_atomic(Path(out) / "comparison.html", page)


def _embed(png: bytes) -> dict[str, Any]:
    """The image as a data URI, and its width in CSS pixels, so that 9 pt are 9 pt on the page."""
    (pixels,) = struct.unpack(">I", png[16:20])  # a PNG states its width after the IHDR tag
    return {
        "image": f"data:image/png;base64,{base64.b64encode(png).decode()}",
        "width": round(pixels * 96 / style.DPI),
    }


def _template(name: str) -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("thinet.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(name)


def _yaml(config: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(config, sort_keys=False, default_flow_style=None, allow_unicode=True))

"""The ``thinet`` command: what surrounds runs. Runs themselves are started by ``run.py``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from thinet.base.errors import ThinetError
from thinet.run.environment import environment, missing_packages


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        return int(chosen.run(chosen) or 0)
    except ThinetError as error:
        if chosen.traceback:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="thinet", description="Tools around runs.")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of errors")
    commands = parser.add_subparsers(required=True, metavar="command")

    doctor = commands.add_parser("doctor", help="check this installation and machine")
    doctor.set_defaults(run=_doctor)

    listing = commands.add_parser("list", help="finished and unfinished runs")
    listing.add_argument("outputs", nargs="?", default="outputs", type=Path)
    listing.set_defaults(run=_list)

    report = commands.add_parser("report", help="write the report of a run, or compare several")
    report.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    report.add_argument("--out", type=Path, help="folder of the comparison (default: comparison)")
    report.add_argument("--wandb", action="store_true", help="compare them on W&B instead")
    report.set_defaults(run=_report)

    export = commands.add_parser("export", help="export a network, with a parity check")
    export.add_argument("folder", type=Path, metavar="DIR", help="a run, or its model folder")
    kind = export.add_mutually_exclusive_group(required=True)
    kind.add_argument("--onnx", dest="kind", action="store_const", const="onnx")
    kind.add_argument("--pt2", dest="kind", action="store_const", const="pt2")
    kind.add_argument("--openvino", dest="kind", action="store_const", const="openvino")
    export.set_defaults(run=_export)
    return parser


def _doctor(_: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from thinet.engine.logging.dashboards import has_wandb_key

    table = Table("what", "found", box=None, pad_edge=False)
    found = environment()
    for name, value in found.items():
        table.add_row(name, value)
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    table.add_row("free disk space", f"{free:.1f} GiB")
    table.add_row("W&B", "key found: online" if has_wandb_key() else "no key: offline")
    for extra, missing in missing_packages().items():
        hint = f"missing {', '.join(missing)}: pip install 'thinet[{extra}]'"
        table.add_row(f"extra {extra}", escape(hint) if missing else "installed")
    Console(soft_wrap=True).print(table)
    problems = []
    if not os.access(Path.cwd(), os.W_OK):
        problems.append(
            f"{Path.cwd()} cannot be written: change folder or type paths.outputs=<dir>."
        )
    if free < 1:
        problems.append("less than 1 GiB of disk space is free: make some room.")
    for problem in problems:
        print(f"problem: {problem}")
    if not problems:
        print("ready")
    return 1 if problems else 0


def _list(chosen: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from thinet.run.state import STATE

    states = sorted(chosen.outputs.glob(f"*/{STATE}"), key=lambda path: path.stat().st_mtime)
    if not states:
        raise ThinetError(f"{chosen.outputs} holds no runs: start one with python run.py.")
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for heading in ("status", "steps", "reference", "model", "cost left"):
        table.add_column(heading, justify="right", no_wrap=True)
    for path in states:
        try:
            row = _row(path)
        except ThinetError:
            row = ["damaged", *"----"]
        table.add_row(path.parent.name, *row)
    Console().print(table)
    return 0


def _row(path: Path) -> list[str]:
    """What is known of a run, by its state, which any method writes in a way of its own."""
    from thinet.base.evaluation import CLASSIFICATION
    from thinet.base.files import read_json
    from thinet.report import numbers
    from thinet.report.axes import axes
    from thinet.run.result import RESULT, read_result

    state = read_json(path)
    if not isinstance(state, dict) or not isinstance(state.get("status"), str):
        raise ThinetError(f"{path} is not the state of a run.")
    if state["status"] != "complete" or not path.with_name(RESULT).exists():
        steps = state.get("steps")
        return [state["status"], str(len(steps)) if isinstance(steps, list) else "-", *"---"]
    result = read_result(path.with_name(RESULT))
    made = result.model is not None
    removed = ((one, one.removed(result)) for one in axes([result]) if not one.measured)
    left = next(
        (
            f"{numbers.percent(1 - part)} {', without '.join(filter(None, (one.name, one.apart)))}"
            for one, part in removed
            if part is not None
        ),
        "-",
    )
    accuracies = (result.reference.top1, result.model.top1 if result.model else None)
    what = "" if result.evaluation == CLASSIFICATION else f" {result.evaluated.main.name}"
    shown = ["-" if one is None else f"{numbers.percent(one)}{what}" for one in accuracies]
    return [state["status"], str(len(result.steps)), *shown, left if made else "-"]


def _report(chosen: argparse.Namespace) -> int:
    from thinet.base.folders import check_links
    from thinet.report import compare_report, draw_figures, print_result, write_report
    from thinet.run.result import read_result

    if chosen.wandb:
        return _report_on_wandb(chosen.folders)
    folder = chosen.folders[0]
    ended = (folder / "result.json").exists()
    others = [*folder.glob("*/result.json"), *folder.glob("*/failure.json")]
    alone = len(chosen.folders) == 1 and chosen.out is None
    if not alone or (not ended and (others or (folder / "failure.json").exists())):
        print(compare_report(chosen.folders, chosen.out or Path("comparison")))
        return 0
    result = read_result(folder)
    check_links(folder)
    draw_figures(result, folder / "figures")
    write_report(result, folder)
    print_result(result)
    print(folder / "report.html")
    return 0


def _report_on_wandb(folders: Sequence[Path]) -> int:
    from thinet.engine.logging.dashboards import has_wandb_key
    from thinet.report.wandb_report import send_report

    if not has_wandb_key():
        raise ThinetError(
            "a report on W&B needs an account and its key, and there is none here: type wandb "
            "login, or leave out --wandb for a page of your own."
        )
    print(send_report(folders))
    return 0


def _export(chosen: argparse.Namespace) -> int:
    from thinet.artifacts.export import export
    from thinet.artifacts.names import SPEC
    from thinet.artifacts.spec import read_spec
    from thinet.base.folders import check_links

    folder = chosen.folder
    check_links(folder)
    if not (folder / SPEC).exists() and (folder / "model" / SPEC).exists():
        folder = folder / "model"
    path, worst = export(folder, chosen.kind)
    print(f"{path}: outputs equal the original's within {worst:.1e} (relative)")
    binary = any("quantization" in one.target for one in read_spec(folder).transforms)
    if binary and chosen.kind == "onnx":
        print("binary layers are standard operators there: equal, and no faster")
    return 0


if __name__ == "__main__":
    sys.exit(main())

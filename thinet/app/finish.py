"""What a run leaves when it has ended: its result, its pages, a summary on dashboards."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinet.base.evaluation import RETRIEVAL
from thinet.base.files import write_json_atomic
from thinet.base.messages import is_first_process, say
from thinet.base.records import JSON, Config, to_json
from thinet.run.identity import record_of, settings_of
from thinet.run.result import MODEL, RESULT, Result, RunRecord
from thinet.run.state import RunState

if TYPE_CHECKING:
    from thinet.run.result import Outcome
    from thinet.run.setup import Setup


def make_result(
    config: Config,
    setup: Setup,
    outcome: Outcome,
    state: RunState,
    unreadable: tuple[str, ...] = (),
) -> Result:
    """Everything about a finished run."""
    from thinet.run.environment import environment

    return Result(
        run=RunRecord(
            name=setup.name,
            method=config["method"]["name"],
            model=setup.source.name,
            dataset=config["dataset"]["name"],
            seed=setup.seed,
            command=_command(),
            seconds=state.seconds,
            note=config["note"],
            weights_by_process=outcome.weights_by_process,
            unreadable_images=unreadable,
        ),
        settings=settings_of(config),
        sizes=tuple(key for key in config["method"]["sizes"]),
        protocol=_protocol(setup),
        images=setup.data.identity(),
        reference=outcome.reference,
        reference_is=outcome.reference_is,
        model=outcome.model,
        steps=tuple(state.steps),
        details={family: to_json(part) for family, part in outcome.details.items()},
        config=record_of(config),
        environment=dict(environment()),
        evaluation=setup.evaluate,
    )


def _protocol(setup: Setup) -> dict[str, JSON]:
    """How test images were prepared, and which look for which; empty where there are none."""
    if not setup.data.has_images:
        return {}
    found = setup.data.preprocessing.protocol()
    if setup.evaluate == RETRIEVAL:
        from thinet.metrics.retrieval import count_lost

        wanted = setup.data.retrieval()
        found |= {"queries": len(wanted.query), "gallery": len(wanted.gallery)}
        found |= {"queries without a match, left out": count_lost(wanted)}
    return found


def _command() -> str:
    from hydra.core.hydra_config import HydraConfig

    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return shlex.join(["python", "run.py", *overrides])


def report(result: Result, folder: Path, loggers: list[Any]) -> float | None:
    """Write everything a finished run leaves, mirror it to the dashboards, and show it."""
    from thinet.engine.logging.sending import Summary, log_result
    from thinet.report import draw_figures, write_files, write_report

    write_json_atomic(folder / RESULT, to_json(result))
    write_files(result, folder)
    figures = draw_figures(result, folder / "figures")
    write_report(result, folder)
    summary = Summary(
        name=result.run.name,
        reference=result.evaluated.by_key(result.reference.figures()),
        model=result.evaluated.by_key(result.final.figures()),
        folder=folder / MODEL,
        charts=figures,
        tables=_tables(result),
    )
    log_result(loggers, summary)
    return show(result, folder)


def _tables(result: Result) -> dict[str, list[dict[str, JSON]]]:
    """The lists of rows among the details, by their names; a cell is a number or a text."""
    fields = [part.items() for part in result.details.values() if isinstance(part, dict)]
    found: dict[str, list[dict[str, JSON]]] = {}
    for name, rows in (field for part in fields for field in part):
        if isinstance(rows, list) and rows and isinstance(rows[0], dict):
            found[name] = [
                {key: cell for key, cell in row.items() if not isinstance(cell, list | dict)}
                for row in rows
                if isinstance(row, dict)
            ]
    return found


def show(result: Result, folder: Path) -> float | None:
    """Print the result; its validation accuracy, which sweepers look at, if there are images."""
    from thinet.report.terminal import print_result

    if is_first_process():
        print_result(result)
        say(f"network: {folder / MODEL}   report: {folder / 'report.html'}")
    return float(result.final.val_top1 or 0.0) if result.images else None

"""``thinet report --wandb``: the comparison of runs as a report on W&B, made from its own panels.

The runs are already there; the report only says how to look at them, so it stays up to date.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from thinet.base.errors import ThinetError
from thinet.base.files import read_json
from thinet.base.records import JSON
from thinet.report.many.runs import find_runs
from thinet.run.result import RESULT, read_result
from thinet.run.state import STATE

EXTRA = "thinet[wandb-report]"
SUMMARY_PANELS = (
    ("Accuracy against FLOPs", "model/flops", "model/top1"),
    ("Accuracy against parameters", "model/params", "model/top1"),
    ("Accuracy against the FLOPs removed", "model/flops_removed", "model/top1"),
    ("Accuracy against latency", "model/latency_ms", "model/top1"),
)
STAGE_PANELS = (
    ("At the end of a step, validation", "stage/top1"),
    ("As cut, validation", "stage/top1_plain"),
    ("As cut, BatchNorm re-estimated", "stage/top1_recalibrated"),
    ("Parameters", "stage/params"),
)
COLUMNS = (
    "run:displayName", "config:criterion.value.name", "config:ratio.value", "config:seed.value",
    "summary:reference/top1", "summary:model/top1", "summary:model/flops",
    "summary:model/params",
)  # fmt: skip
FIGURES = ("accuracy", "distillation_terms", "distillation_gradients", "widths")
AXIS = "compression_rate"


def logged_runs(folders: Iterable[str | Path]) -> dict[tuple[str, str], list[str]]:
    """The ids of the runs that W&B has, by entity (may be empty: the account's own) and project.

    Raises:
        ThinetError: If none of the runs was logged to W&B.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for folder in find_runs(folders):
        if not (folder / RESULT).exists() or not (folder / STATE).exists():
            continue
        settings, run_id = _logged(folder)
        if isinstance(settings, dict) and run_id:
            place = (str(settings.get("entity") or ""), str(settings.get("project") or "thinet"))
            found.setdefault(place, []).append(str(run_id))
    if not found:
        raise ThinetError(
            "none of these runs was logged to W&B: repeat them with logger=wandb resume=off."
        )
    return found


def _logged(folder: Path) -> tuple[JSON, JSON]:
    """The settings of W&B and the id of a run; a damaged run has neither."""
    try:
        logger = read_result(folder).config.get("logger")
        state = read_json(folder / STATE)
    except ThinetError:
        return None, None
    settings = logger.get("wandb") if isinstance(logger, dict) else None
    return settings, state.get("run_id") if isinstance(state, dict) else None


def _interface() -> tuple[Any, Any]:
    """The two modules that define reports; what they export has no types."""
    try:
        return import_module("wandb_workspaces.expr"), import_module("wandb_workspaces.reports.v2")
    except ModuleNotFoundError as error:
        raise ThinetError(
            f"a report on W&B needs a package that is not installed: type pip install '{EXTRA}'."
        ) from error


def make_report(runs: dict[tuple[str, str], Sequence[str]], entity: str) -> Any:
    """Define the report; nothing is sent.

    Args:
        runs: See :func:`logged_runs`.
        entity: The account that runs without one of their own belong to.

    Returns:
        A ``wandb_workspaces.reports.v2.Report``, in the project of most of the runs.

    Raises:
        ThinetError: If the package for it is not installed.
    """
    expr, wr = _interface()
    sets = [
        wr.Runset(
            entity=own or entity, project=project, name=project,
            filters=expr.And(expr.Metric("ID").isin(list(ids))),
            pinned_columns=list(COLUMNS),
        )
        for (own, project), ids in runs.items()
    ]  # fmt: skip
    summary = [wr.ScatterPlot(title=title, x=x, y=y) for title, x, y in SUMMARY_PANELS]
    stages = [wr.LinePlot(title=title, x=AXIS, y=[y]) for title, y in STAGE_PANELS]
    bars = wr.BarPlot(
        title="Top-1 by criterion, mean and deviation over runs", metrics=["model/top1"],
        groupby=wr.Config("criterion.name"), groupby_aggfunc="mean", groupby_rangefunc="stddev",
    )  # fmt: skip
    media = wr.MediaBrowser(title="Figures", media_keys=[f"figures/{name}" for name in FIGURES])
    (own, project), _ = max(runs.items(), key=lambda item: len(item[1]))
    count = sum(map(len, runs.values()))
    return wr.Report(
        entity=own or entity,
        project=project,
        title=f"thinet: {'1 run' if count == 1 else f'{count} runs'} compared",
        description="Accuracy against cost of networks, made by thinet report --wandb.",
        blocks=[
            wr.H1("Accuracy against cost"),
            wr.P("Each point is the network that a run made; accuracies are of test images."),
            wr.PanelGrid(runsets=sets, panels=[*summary, bars]),
            wr.H1("From step to step, over the fraction of FLOPs removed"),
            wr.PanelGrid(runsets=sets, panels=stages),
            wr.H1("What differs, and the figures of the runs"),
            wr.PanelGrid(runsets=sets, panels=[wr.RunComparer(diff_only=True), media]),
        ],
    )


def send_report(folders: Iterable[str | Path]) -> str:
    """Make the report on W&B; there must be a key.

    Returns:
        Its address.

    Raises:
        ThinetError: If no run was logged, a package is missing or W&B cannot be reached.
    """
    import wandb

    runs = logged_runs(folders)
    make_report({**runs}, "nobody")  # what is missing here is said before anything is sent
    try:
        report = make_report({**runs}, str(wandb.Api().default_entity or ""))
        report.save()
    except ThinetError:
        raise
    except Exception as error:  # the client has no one class of errors
        reason = " ".join(str(error).split()).rstrip(".")[:300]
        raise ThinetError(
            f"W&B did not take the report ({reason}): check the connection and wandb login, and "
            "upload offline runs with wandb sync first."
        ) from error
    return str(report.url)

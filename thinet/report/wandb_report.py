"""``thinet report --wandb``: the comparison of runs as a report on W&B, made from its own panels.

The runs are already there; the report only says how to look at them, so it stays up to date.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from thinet.base.errors import ThinetError
from thinet.base.evaluation import Evaluation
from thinet.base.files import read_json
from thinet.base.records import JSON
from thinet.report.many.runs import evaluations, find_runs, gather
from thinet.run.result import RESULT, read_result
from thinet.run.state import STATE

EXTRA = "thinet[wandb-report]"
AGAINST = (
    ("FLOPs", "model/flops"),
    ("parameters", "model/params"),
    ("the FLOPs removed", "model/flops_removed"),
    ("latency", "model/latency_ms"),
)
STAGE_PANELS = (
    ("At the end of a step, validation", "stage/top1"),
    ("As cut, validation", "stage/top1_plain"),
    ("As cut, BatchNorm re-estimated", "stage/top1_recalibrated"),
    ("Parameters", "stage/params"),
)
COLUMNS = (
    "run:displayName", "config:criterion.value.name", "config:ratio.value", "config:seed.value",
)  # fmt: skip
COSTS = ("summary:model/flops", "summary:model/params")
FIGURES = ("accuracy", "distillation_terms", "distillation_gradients", "widths")
AXIS = "compression_rate"


def summary_panels(kinds: Sequence[Evaluation]) -> list[tuple[str, str, str]]:
    """Title and both axes of the charts of finished runs."""
    return [
        (f"{kind.title} against {name}", cost, f"model/{kind.main.key}")
        for kind in kinds
        for name, cost in AGAINST
    ]


def _columns(kinds: Sequence[Evaluation]) -> list[str]:
    of_both = ("reference", "model")
    tested = [f"summary:{whose}/{one.main.key}" for one in kinds for whose in of_both]
    return [*COLUMNS, *tested, *COSTS]


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


def make_report(
    runs: dict[tuple[str, str], Sequence[str]], entity: str, kinds: Sequence[Evaluation]
) -> Any:
    """Define the report; nothing is sent.

    Args:
        runs: See :func:`logged_runs`.
        entity: The account that runs without one of their own belong to.
        kinds: How their test images were evaluated.

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
            pinned_columns=_columns(kinds),
        )
        for (own, project), ids in runs.items()
    ]  # fmt: skip
    summary = [wr.ScatterPlot(title=title, x=x, y=y) for title, x, y in summary_panels(kinds)]
    stages = [wr.LinePlot(title=title, x=AXIS, y=[y]) for title, y in STAGE_PANELS]
    bars = [
        wr.BarPlot(
            title=f"{one.main.name[0].upper()}{one.main.name[1:]} by criterion, mean and deviation "
            "over runs", metrics=[f"model/{one.main.key}"],
            groupby=wr.Config("criterion.name"), groupby_aggfunc="mean", groupby_rangefunc="stddev",
        )
        for one in kinds
    ]  # fmt: skip
    media = wr.MediaBrowser(title="Figures", media_keys=[f"figures/{name}" for name in FIGURES])
    titles, leads = " and ".join(one.title for one in kinds), "; ".join(one.lead for one in kinds)
    (own, project), _ = max(runs.items(), key=lambda item: len(item[1]))
    count = sum(map(len, runs.values()))
    return wr.Report(
        entity=own or entity,
        project=project,
        title=f"thinet: {'1 run' if count == 1 else f'{count} runs'} compared",
        description=f"{titles} against cost of networks, made by thinet report --wandb.",
        blocks=[
            wr.H1(f"{titles} against cost"),
            wr.P(f"Each point is the network that a run made; {leads}."),
            wr.PanelGrid(runsets=sets, panels=[*summary, *bars]),
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

    runs, kinds = logged_runs(folders), evaluations(gather(folders))
    make_report({**runs}, "nobody", kinds)  # what is missing here is said before anything is sent
    try:
        report = make_report({**runs}, str(wandb.Api().default_entity or ""), kinds)
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

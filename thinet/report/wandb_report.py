"""``thinet report --wandb``: the comparison of runs as a report on W&B, made from its own panels.

The runs are already there; the report only says how to look at them, so it stays up to date.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from thinet.base.errors import ThinetError
from thinet.base.evaluation import Evaluation
from thinet.base.files import read_json
from thinet.base.records import JSON
from thinet.report.many.runs import (
    Entry,
    evaluations,
    find_runs,
    gather,
    settings_of,
    varied,
)
from thinet.run.result import RESULT, read_result
from thinet.run.state import STATE

EXTRA = "thinet[wandb-report]"
AGAINST = (
    ("FLOPs", "model/flops"),
    ("parameters", "model/params"),
    ("the FLOPs removed", "model/flops_removed"),
    ("latency", "model/latency_ms"),
)
BINARY = (("bits of parameters", "model/bits"), ("binary operations", "model/binary_ops"))
"""Against these, too, where a network has binary operations."""
STAGE_PANELS = (
    ("At the end of a step, validation", "stage/top1"),
    ("As cut, validation", "stage/top1_plain"),
    ("As cut, BatchNorm re-estimated", "stage/top1_recalibrated"),
    ("Parameters", "stage/params"),
)
COSTS = ("summary:model/flops", "summary:model/params")
FIGURES = (
    "accuracy", "distillation_terms", "distillation_gradients", "quantization_sizes",
    "quantization_speeds", "quantization_training", "search", "search_widths", "widths",
)  # fmt: skip
AXIS = "compression_rate"


@dataclass(frozen=True)
class Shown:
    """What a report shows of its runs.

    Attributes:
        kinds: How their test images were evaluated.
        settings: Those that tell the runs apart, as W&B calls them.
        by: The option by which accuracies are averaged.
        binary: Whether a network has binary operations.
    """

    kinds: Sequence[Evaluation]
    settings: Sequence[str] = ()
    by: str = "criterion"
    binary: bool = False

    @property
    def panels(self) -> list[tuple[str, str, str]]:
        """Title and both axes of the charts of finished runs."""
        return [
            (f"{kind.title} against {name}", cost, f"model/{kind.main.key}")
            for kind in self.kinds
            for name, cost in (*AGAINST, *(BINARY if self.binary else ()))
        ]

    @property
    def columns(self) -> list[str]:
        """Of the table of runs."""
        of_both = ("reference", "model")
        tested = [f"summary:{whose}/{one.main.key}" for one in self.kinds for whose in of_both]
        costs = [*COSTS, *(f"summary:{cost}" for _, cost in (BINARY if self.binary else ()))]
        return [
            "run:displayName", *(f"config:{key}" for key in self.settings), "config:seed.value",
            *tested, *costs,
        ]  # fmt: skip


def shown(entries: Sequence[Entry]) -> Shown:
    """What a report shows of some runs: what they read and differ in, and what they cost."""
    config = {key: part for one in entries if one.result for key, part in one.result.config.items()}
    known = settings_of(entries)
    options = [key for key in known if isinstance(part := config.get(key), dict) and "name" in part]
    sizes = [key for key in known if key not in options and key in config]
    differ = varied(entries, options) or options[:1]
    return Shown(
        evaluations(entries),
        (*(f"{key}.value.name" for key in differ), *(f"{key}.value" for key in sizes)),
        differ[0] if differ else "criterion",
        any(one.result and one.result.final.binary_ops for one in entries),
    )


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


def make_report(runs: dict[tuple[str, str], Sequence[str]], entity: str, what: Shown) -> Any:
    """Define the report; nothing is sent.

    Args:
        runs: See :func:`logged_runs`.
        entity: The account that runs without one of their own belong to.
        what: What is shown of them.

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
            pinned_columns=what.columns,
        )
        for (own, project), ids in runs.items()
    ]  # fmt: skip
    summary = [wr.ScatterPlot(title=title, x=x, y=y) for title, x, y in what.panels]
    stages = [wr.LinePlot(title=title, x=AXIS, y=[y]) for title, y in STAGE_PANELS]
    bars = [
        wr.BarPlot(
            title=f"{one.main.name[0].upper()}{one.main.name[1:]} by {what.by}, mean and "
            "deviation over runs", metrics=[f"model/{one.main.key}"],
            groupby=wr.Config(f"{what.by}.name"), groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )
        for one in what.kinds
    ]  # fmt: skip
    media = wr.MediaBrowser(title="Figures", media_keys=[f"figures/{name}" for name in FIGURES])
    titles = " and ".join(one.title for one in what.kinds)
    leads = "; ".join(one.lead for one in what.kinds)
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

    runs, what = logged_runs(folders), shown(gather(folders))
    make_report({**runs}, "nobody", what)  # what is missing here is said before anything is sent
    try:
        report = make_report({**runs}, str(wandb.Api().default_entity or ""), what)
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

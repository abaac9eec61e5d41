"""``method=metaprune``: train what judges widths, search within a budget, train the result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from thinet.artifacts.store import load
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.report.sections.search import Candidate, Trained
from thinet.run.method import Method
from thinet.run.result import MODEL, Outcome
from thinet.run.session import Session
from thinet.run.settings import Settings, fill
from thinet.run.setup import Setup
from thinet.run.steps import Keeping, run_steps
from thinet.search.checks import part_of
from thinet.search.ending import Ending, ending_steps
from thinet.search.front import check_pymoo
from thinet.search.plan import Plan, check_first, make_plan, make_task, show_plan
from thinet.search.results import details_of
from thinet.search.settings import NSGA2, PROXY, SEARCH, Evolution, Searching
from thinet.search.work import Work
from thinet.surgery import check_trainable
from thinet.training.distilling import Distilling
from thinet.training.proxy import Proxy
from thinet.training.source import on_paper
from thinet.widths.target import Target


@dataclass
class Progress:
    """What has to be remembered.

    Attributes:
        candidates: That have been judged, in order.
        uniform: The uniform widths, judged in the same way.
        trained: Networks that have been trained at the end.
    """

    candidates: list[Candidate] = field(default_factory=list)
    uniform: Candidate | None = None
    trained: list[Trained] = field(default_factory=list)


@dataclass(frozen=True)
class Metaprune(Method[Progress, Plan]):
    """Search how wide each layer should be, and train that network from scratch.

    Source: Liu et al., MetaPruning, ICCV 2019.

    Attributes:
        proxy: Judges widths.
        learning: How what it needs is trained; None if it needs nothing.
        searching: What is searched in, and what candidates are judged on.
        evolution: How the search goes.
        target: The budget.
        layers: Whose widths are searched.
        paper: What ``layers=paper`` stands for.
        start: With which part the run begins.
        of: The folder of the run that did what is left out.
        table: Of latency: a file; None for one that is measured here, or was before.
        ending: What is trained in the end.
    """

    proxy: Proxy
    learning: tuple[Phase, Training] | None
    searching: Searching
    evolution: Evolution
    target: Target
    layers: str | tuple[str, ...]
    paper: tuple[str, ...]
    start: str
    of: Path | None
    table: Path | None
    ending: Ending
    remembers = Progress

    @classmethod
    def configure(cls, settings: Settings) -> Metaprune:
        """From the groups and keys that its yaml names."""
        kind: type[Proxy] = Proxy  # type: ignore[type-abstract]
        proxy, layers = settings.make("proxy.build", kind), settings["layers"]
        of, table = (
            None if settings[key] is None else Path(settings[key]).expanduser()
            for key in ("method.of", "method.table")
        )
        learning = None
        if proxy.learns:
            given = {key: settings[f"proxy.{key}"] for key in ("epochs", "lr", "decay", "warmup")}
            learning = fill(Phase, given, "proxy"), settings.training("proxy")
        group = settings.without("search")
        return cls(
            proxy, learning,
            fill(Searching, part_of(Searching, group), "search"),
            fill(Evolution, part_of(Evolution, group), "search"),
            Target.parse(settings["target"]),
            layers if isinstance(layers, str) else tuple(layers),
            tuple(settings["model"].get("paper_layers") or ()),
            settings["method.start"], of, table,
            Ending(
                Distilling.read(settings), settings["method.train"], settings["method.epochs"],
                tuple(settings["method.controls"]),
            ),
        )  # fmt: skip

    def plan(self, setup: Setup, progress: Progress) -> Plan:
        """Widths, budget, and what the proxy takes.

        Raises:
            ThinetError: If the budget is out of reach, or the proxy cannot judge this network.
        """
        network, images = on_paper(setup)
        task, skipped = make_task(network, images, self.layers, self.searching, self.paper)
        plan = make_plan(task, skipped, self.target, self.searching)
        if self.searching.algorithm == NSGA2:
            check_pymoo()
        if plan.problem is not None:
            check_first(self.evolution, self.searching, plan.problem, setup.seed)
        # Of a run that goes on from another one nothing has to fit that is not trained any more.
        hypernet = self.proxy.check(task, setup) if self.start == PROXY else 0
        if self.ending.train:
            check_trainable(network)
            self.ending.distilling.check(setup, own=True)
        return replace(plan, hypernet=hypernet)

    def show(self, plan: Plan) -> None:
        """Print it."""
        show_plan(plan, self.target, self.proxy.name, self.evolution)

    def run(self, session: Session[Progress], plan: Plan) -> Outcome:
        """Do the parts that are left, one step each for what is trained and each generation."""
        session.begin()
        work = Work.begin(self, session, plan)
        steps = []
        if self.proxy.learns and self.start == PROXY:
            steps.append(work.learning())
        if self.start in (PROXY, SEARCH):
            steps += work.generations()
        steps += ending_steps(work)
        run_steps(session, steps, work.task.network, Keeping(network=False))
        engine, folder = session.engine, session.folder / MODEL
        digests: tuple[str, ...] = ()
        model = None
        if self.ending.train:
            model = session.progress.trained[0].measurement
            digests = tuple(engine.digests(load(folder)))
        engine.barrier()
        return Outcome(session.reference, model, details_of(work), digests)

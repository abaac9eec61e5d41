"""A search under way: its steps and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from thinet.base.messages import say
from thinet.metrics import given_table, kept_table, write_table
from thinet.report.sections.search import UNIFORM, Candidate
from thinet.run.session import Session
from thinet.run.setup import Setup
from thinet.run.steps import Done, Step
from thinet.search.costs import widths_of
from thinet.search.ending import best_of
from thinet.search.evolution import Problem, uniform
from thinet.search.fitness import standard_error
from thinet.search.judging import Grounds, find_grounds, judge_all
from thinet.search.plan import (
    Plan,
    check_first,
    make_plan,
    make_problem,
    make_task,
    none_within,
    propose,
)
from thinet.search.settings import PROXY, TRAINING
from thinet.search.stored import (
    Origin,
    check_origin,
    load_proxy_,
    origin_of,
    read_search,
    save_proxy,
)
from thinet.training.learning import Learning
from thinet.training.measurement import measure, measure_baseline
from thinet.training.proxy import Judge, Task
from thinet.training.source import build_network, prepare_network
from thinet.widths.space import Genes

if TYPE_CHECKING:
    from thinet.metrics import LatencyTable
    from thinet.search.method import Metaprune, Progress

TABLE, TABLES = "latency.json", ".latency"
"""A latency table in the folder of a run, and where they are kept for others."""


@dataclass(eq=False)
class Work:
    """What all steps share.

    Attributes:
        how: Settings of the method.
        session: Of the run.
        plan: The budget.
        task: The network and its widths.
        problem: What they cost, and the budget.
        grounds: What candidates are judged on.
    """

    how: Metaprune
    session: Session[Progress]
    plan: Plan
    task: Task
    problem: Problem
    grounds: Grounds
    _made: nn.Module | None = field(default=None, init=False)
    _judge: Judge | None = field(default=None, init=False)
    _teaching: Learning | None = field(default=None, init=False)

    @classmethod
    def begin(cls, how: Metaprune, session: Session[Progress], plan: Plan) -> Work:
        """Prepare the full network: trained, if the proxy looks at its weights, or it teaches."""
        setup, engine = session.setup, session.engine
        grounds = find_grounds(engine, how.searching)  # refused before any long work
        teaches = how.ending.train and how.ending.distilling.teaches_itself(setup)
        trained = teaches or (how.proxy.trained and how.start != TRAINING)
        images = engine.data.examples()
        if how.start != PROXY:
            blank, _ = make_task(build_network(setup), images, how.layers, how.searching, how.paper)
            engine.decide(partial(_check_other, how, setup, blank))
        if trained:
            network = prepare_network(setup, engine, session.folder)
        else:
            network = build_network(setup)
        if session.state.reference is None:
            measuring = measure_baseline if trained else measure
            session.state.reference = measuring(setup, engine, network)
            session.save()
        task, skipped = make_task(network.cpu(), images, how.layers, how.searching, how.paper)
        if task.space != plan.space:  # numbers may show what shapes do not
            plan = replace(make_plan(task, skipped, how.target, how.searching),
                           hypernet=plan.hypernet)  # fmt: skip
        problem = plan.problem or _by_latency(how, session, task)
        work = cls(how, session, plan, task, problem, grounds)
        work._say_grounds()
        if how.start == TRAINING and not session.progress.candidates:
            engine.decide(work._take_over)
            session.progress = engine.agree(session.progress)
            best_of(work)
        return work

    def _take_over(self) -> None:
        """What another run has judged, at what it costs here."""
        assert self.how.of is not None
        found, progress = read_search(self.how.of, self.task), self.session.progress
        progress.candidates = [self._again(one) for one in found.candidates]
        if found.uniform is not None and found.uniform.genes == uniform(self.problem):
            progress.uniform = self._again(found.uniform)

    def _again(self, one: Candidate) -> Candidate:
        return self._candidate(one.genes, one.generation, one.error)

    def _say_grounds(self) -> None:
        """What validation images can tell, before any long work."""
        found = self.grounds
        say(
            f"search: candidates are judged on {found.images} validation images (standard error up "
            f"to {100 * standard_error(found.images):.1f} points), their statistics estimated on "
            f"{found.calibration}"
        )

    def learning(self) -> Step:
        """Train what judges widths."""
        return Step(self.how.proxy.title, self._learn)

    def _learn(self, network: nn.Module, folder: Path) -> Done:
        session, proxy = self.session, self.how.proxy
        assert self.how.learning is not None
        phase, training = self.how.learning
        made = proxy.make(self.task, session.setup)
        assert made is not None
        count = sum(one.numel() for one in made.parameters())
        say(f"{proxy.title}: training {count:,} parameters for {phase.epochs} epochs")
        proxy.train(made, session.setup, session.engine, phase, training, folder / "fit")
        if session.writes:
            save_proxy(made, self._origin(), session.folder)
        session.engine.barrier()
        made.zero_grad(set_to_none=True)
        self._made = made
        return Done(network, {}, phase.epochs, f"{proxy.title}: trained")

    def _origin(self) -> Origin:
        return origin_of(self.how.proxy, self.session.setup, self.task.space)

    def judge(self) -> Judge:
        """What judges widths; what has been trained for it is read from the disk if need be."""
        if self._judge is None:
            session, proxy = self.session, self.how.proxy
            made = self._made
            if made is None:
                made = proxy.make(self.task, session.setup)
            if made is not None and self._made is None:
                folder = self.how.of or session.folder
                session.engine.decide(partial(load_proxy_, made, self._origin(), folder))
                session.engine.share(made)
            self.task.network.to(session.engine.device)
            self._judge = proxy.judge(self.task, made, self.grounds.evidence, session.engine)
        return self._judge

    def generations(self) -> list[Step]:
        """A step each, and one for the uniform widths."""
        count = self.how.evolution.generations
        steps = [
            Step(f"generation {number + 1}", partial(self._generation, number))
            for number in range(count)
        ]
        return [*steps, Step("uniform widths", self._uniform)]

    def _generation(self, number: int, network: nn.Module, folder: Path) -> Done:
        session, judged = self.session, self.session.progress.candidates
        errors = {one.genes: one.error for one in judged}
        seed = session.setup.seed
        genes = session.engine.decide(
            lambda: propose(
                self.how.evolution, self.how.searching, self.problem, errors, number, seed
            )
        )
        found = self._judged(genes, number, folder)
        known = [one.error for one in (*judged, *found)]
        if not known:
            raise none_within(self.how.searching)
        figures: dict[str, float | None] = {"proxy_top1": 1 - min(known)}
        if found:
            figures["proxy_top1_mean"] = 1 - sum(one.error for one in found) / len(found)
        said = (
            f"generation {number + 1} of {self.how.evolution.generations}: {len(found)} "
            f"candidates, best so far {100 * (1 - min(known)):.2f} % by proxy={self.how.proxy.name}"
        )
        return Done(network, figures, said=said, note=partial(judged.extend, found))

    def _judged(self, genes: Sequence[Genes], number: int, folder: Path) -> list[Candidate]:
        if not genes:
            return []
        errors = judge_all(self.session.engine, self.judge(), genes, folder)
        return [self._candidate(one, number, error)
                for one, error in zip(genes, errors, strict=True)]  # fmt: skip

    def _candidate(self, genes: Genes, number: int, error: float) -> Candidate:
        costs = self.problem.cost_of(genes), self.plan.flops(genes), self.plan.params(genes)
        return Candidate(genes, number, error, *costs)

    def _uniform(self, network: nn.Module, folder: Path) -> Done:
        genes = uniform(self.problem)
        if genes is None:
            return Done(network, said="one scale for all layers does not meet the budget")
        known = [one for one in self.session.progress.candidates if one.genes == genes]
        if known:
            found = replace(known[0], generation=UNIFORM)
        else:
            (found,) = self._judged([genes], UNIFORM, folder)
        self._judge = self._made = None  # room for the training of the result

        def note() -> None:
            self.session.progress.uniform = found

        return Done(network, {"proxy_top1_uniform": 1 - found.error}, note=note)

    def teaching(self) -> Learning:
        """How networks are trained in the end; the full network teaches if nobody else is named."""
        if self._teaching is None:
            session, distilling = self.session, self.how.ending.distilling
            itself = distilling.teaches_itself(session.setup)
            self._teaching = distilling.begin(
                session.setup, session.engine, session.folder,
                self.task.network.cpu() if itself else None,
            )  # fmt: skip
        return self._teaching


def _check_other(how: Metaprune, setup: Setup, task: Task) -> None:
    """Refuse a run that this one cannot go on from.

    Raises:
        ThinetError: If it judged something else, or is none.
    """
    assert how.of is not None
    if how.start == TRAINING:
        read_search(how.of, task)
    else:
        check_origin(origin_of(how.proxy, setup, task.space), how.of)


def _by_latency(how: Metaprune, session: Session[Progress], task: Task) -> Problem:
    """The budget by a latency table: the run's own, the one that was given, or a new one.

    Raises:
        ThinetError: If it was measured on another machine, or the budget is out of reach.
    """
    setup, engine, own = session.setup, session.engine, session.folder / TABLE
    network, widths, shape = task.network.to(engine.device), widths_of(task.space), task.shape

    def find() -> LatencyTable:
        if session.state.steps and own.exists():  # or a run that goes on had another budget
            return given_table(own, network, widths, shape, advice="type resume=off")
        theirs = None if how.of is None else how.of / TABLE
        if how.table is not None:
            found = given_table(how.table, network, widths, shape, setting="method.table")
        elif theirs is not None and theirs.exists():  # other times would be another budget
            advice = "type method.table=<a table of this machine>"
            found = given_table(theirs, network, widths, shape, setting="the table", advice=advice)
        else:
            folder = setup.source.cache.parent / TABLES
            found = kept_table(folder, network, task.graph, widths, shape, tell=say)
        write_table(own, found)
        return found

    table = engine.decide(find)
    network.cpu()
    problem = make_problem(task, how.target, how.searching, table)
    check_first(how.evolution, how.searching, problem, setup.seed)
    return problem

"""Widths along a range of costs: NSGA-II after what was judged, and the Pareto front of it.

Source: Deb et al., A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, 2002; ranks,
tournaments, crossing and mutation are those of pymoo.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from thinet.base.errors import ThinetError
from thinet.search.budget import Window, draw_near, repair
from thinet.search.evolution import Problem
from thinet.search.settings import Evolution
from thinet.widths.space import Genes

ROUNDS = 10
"""How often offspring are asked for, and each slice of the range is drawn from."""


def check_pymoo() -> None:
    """Refuse a search that could not be done, before any long work.

    Raises:
        ThinetError: If pymoo is missing.
    """
    try:
        from pymoo.config import Config
    except ImportError as error:
        raise ThinetError(
            "a front of widths needs the package pymoo, which is not installed: "
            "type pip install 'thinet[pareto]'."
        ) from error
    Config.warnings["not_compiled"] = False  # it would print advice


def next_on_front(
    how: Evolution, problem: Problem, judged: Mapping[Genes, float], generation: int, seed: int
) -> list[Genes]:
    """The candidates to judge next: all different, all within the range, none judged before.

    A pure function, as :func:`thinet.search.evolution.next_generation` is: parents are the best of
    all that was judged, by rank and crowding over errors and costs.

    Args:
        how: How the search goes.
        problem: What is searched in; its window is the whole range of costs.
        judged: The error of every candidate so far, in the order of judging.
        generation: From 0.
        seed: Of the search.

    Returns:
        At most ``how.population`` candidates; fewer where no more can be found, none where the
        range leaves nothing new.

    Raises:
        ThinetError: If pymoo is missing.
    """
    check_pymoo()
    rng = np.random.default_rng([seed, generation])
    found: list[Genes] = []
    ways = [_spread(how, problem, rng)]
    if judged and len(problem.space.scales) > 1:
        ways.insert(0, _offspring(how, problem, judged, rng))
    for genes in (genes for way in ways for genes in way):
        if genes not in judged and genes not in found and problem.feasible(genes):
            found.append(genes)
        if len(found) == how.population:
            break
    return found


def pareto_front(candidates: Sequence[tuple[float, float]]) -> list[int]:
    """The places of the candidates that no other beats, by rising cost.

    Another one beats a candidate if it is no worse in both and better in one; of equal ones none
    beats the other.

    Args:
        candidates: Error and cost of each; less is better.
    """
    if not candidates:
        return []
    points = np.array(candidates, float)
    places = np.lexsort((points[:, 0], points[:, 1]))
    front: list[int] = []
    for place in places.tolist():
        error, cost = points[place]
        last = points[front[-1]] if front else None
        if last is None or error < last[0] or (error == last[0] and cost == last[1]):
            front.append(place)
    return front


def _spread(how: Evolution, problem: Problem, rng: np.random.Generator) -> Iterator[Genes]:
    """Random widths, each within another slice of the range; where one is empty, anywhere in it."""
    window = problem.window
    edges = np.linspace(window.low, window.high, how.population + 1).tolist()
    for _ in range(ROUNDS):
        for place in rng.permutation(how.population).tolist():
            slices = Window(edges[place], edges[place + 1]), window
            drawn = (draw_near(problem.space, problem.cost_of, one, how.spread, rng)
                     for one in slices)  # fmt: skip
            genes = next((genes for genes in drawn if genes is not None), None)
            if genes is not None:
                yield genes


def _offspring(
    how: Evolution, problem: Problem, judged: Mapping[Genes, float], rng: np.random.Generator
) -> Iterator[Genes]:
    """Children of the best of all so far, brought into the range where that can be."""
    algorithm = _nsga2(how, problem, judged, rng)
    algorithm.tell(infills=algorithm.ask())  # the parents, whose errors are known
    for _ in range(ROUNDS):
        children = algorithm.ask()
        if children is None:
            return
        yield from _genes(children.get("X"))
        if len(children) < how.population:  # the parents have no others
            return


def _nsga2(
    how: Evolution, problem: Problem, judged: Mapping[Genes, float], rng: np.random.Generator
) -> Any:
    """The algorithm, about to be told of its parents."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.evaluator import Evaluator
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem as Objectives
    from pymoo.core.termination import NoTermination
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
    from pymoo.problems.static import StaticProblem

    class IntoRange(RoundingRepair):  # type: ignore[misc]
        def _do(self, task: Any, X: Any, **more: Any) -> Any:
            return np.array([_into(problem, genes, rng) for genes in _genes(X)])

    space = problem.space
    figures = [(error, problem.cost_of(genes)) for genes, error in judged.items()]
    task = Objectives(n_var=space.size, n_obj=2, xl=0, xu=len(space.scales) - 1, vtype=int)
    known = Population.new(X=np.array(list(judged)))
    Evaluator().eval(StaticProblem(task, F=np.array(figures)), known)
    # Ties are drawn: without a state of its own it would draw from no seed at all.
    parents = RankAndCrowding().do(
        task, known, n_survive=min(how.population, len(known)), random_state=rng
    )
    whole_numbers = {"vtype": float, "repair": RoundingRepair()}
    algorithm = NSGA2(
        pop_size=len(parents), n_offsprings=how.population, sampling=parents,
        crossover=SBX(prob=0.9, eta=3, **whole_numbers), mutation=PM(eta=3, **whole_numbers),
        repair=IntoRange(),
    )  # fmt: skip
    algorithm.setup(task, seed=int(rng.integers(2**31)), termination=NoTermination(), verbose=False)
    return algorithm


def _into(problem: Problem, genes: Genes, rng: np.random.Generator) -> Genes:
    """Genes within the range; as they are where they are in it or nothing leads there."""
    return repair(problem.space, genes, problem.cost_of, problem.window, rng) or genes


def _genes(rows: Iterable[Any]) -> list[Genes]:
    return [tuple(int(gene) for gene in row) for row in rows]

"""The paper's evolutionary search, as one pure function from what was judged to what is next.

Source: Liu et al., MetaPruning, ICCV 2019, section 3.3, with the constants of the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from thinet.search.budget import CostOf, Window, draw_near
from thinet.search.settings import Evolution
from thinet.widths.space import Genes, Space


@dataclass(frozen=True)
class Problem:
    """What is searched in.

    Attributes:
        space: The widths to choose among.
        cost_of: What they cost.
        window: What they may cost.
    """

    space: Space
    cost_of: CostOf
    window: Window

    def feasible(self, genes: Genes) -> bool:
        """Whether they are within the budget."""
        return self.cost_of(genes) in self.window


def next_generation(
    how: Evolution, problem: Problem, judged: Mapping[Genes, float], generation: int, seed: int
) -> list[Genes]:
    """The candidates to judge next: all different, all within the budget, none judged before.

    A pure function, so that a search that goes on after a kill is the one that was never killed.

    Args:
        how: How the search goes.
        problem: What is searched in.
        judged: The error of every candidate so far, lower is better, in the order of judging.
        generation: From 0.
        seed: Of the search.

    Returns:
        At most ``how.population`` candidates; fewer where no more can be found, none where the
        budget leaves nothing new.
    """
    rng = np.random.default_rng([seed, generation])
    best = sorted(judged, key=lambda genes: judged[genes])[: how.parents]
    found: list[Genes] = []

    def add(make: Callable[[], Genes | None], most: int, tries: int) -> None:
        wanted = min(how.population, len(found) + most)
        for _ in range(tries):
            if len(found) >= wanted:
                return
            genes = make()
            fresh = genes is not None and genes not in judged and genes not in found
            if fresh and genes is not None and problem.feasible(genes):
                found.append(genes)

    if best:
        add(lambda: mutated(problem.space, _one(best, rng), how.mutation_rate, rng),
            how.mutations, 10 * how.mutations)  # fmt: skip
    if len(best) > 1:
        add(lambda: crossed(*_two(best, rng), rng), how.crossovers, 10 * how.crossovers)
    add(lambda: draw_near(problem.space, problem.cost_of, problem.window, how.spread, rng),
        how.population, 10 * how.population)  # fmt: skip
    return found


def uniform(problem: Problem) -> Genes | None:
    """The widest one scale for all groups that is not above the budget."""
    space = problem.space
    even = [(gene,) * space.size for gene in range(len(space.scales))]
    below = [genes for genes in even if problem.cost_of(genes) <= problem.window.high]
    return below[-1] if below else None


def mutated(space: Space, parent: Genes, rate: float, rng: np.random.Generator) -> Genes:
    """A parent of whose genes some changed, each to another of the scales."""
    count = len(space.scales)
    changes = rng.random(len(parent)) < rate
    steps = rng.integers(1, max(count, 2), len(parent))
    return tuple((gene + int(step)) % count if change else gene
                 for gene, change, step in zip(parent, changes, steps, strict=True))  # fmt: skip


def crossed(left: Genes, right: Genes, rng: np.random.Generator) -> Genes:
    """Each gene from one of two parents."""
    first = rng.random(len(left)) < 0.5
    return tuple(a if one else b for a, b, one in zip(left, right, first, strict=True))


def _one(best: Sequence[Genes], rng: np.random.Generator) -> Genes:
    return best[int(rng.integers(len(best)))]


def _two(best: Sequence[Genes], rng: np.random.Generator) -> tuple[Genes, Genes]:
    first, second = rng.choice(len(best), 2, replace=False)
    return best[int(first)], best[int(second)]

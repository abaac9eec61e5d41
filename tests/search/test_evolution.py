"""The search: each candidate new and within the budget, a seed a search, better than chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.search.paper import laid
from thinet.base.errors import ThinetError
from thinet.search.budget import Window, check_reachable, draw_near, repair
from thinet.search.evolution import Problem, crossed, mutated, next_generation
from thinet.search.settings import Evolution
from thinet.widths.space import Space

UNITS = (16, 24, 40, 64, 8, 32, 48, 20)
SPACE = Space(tuple("abcdefgh"), UNITS, tuple(range(8)))
WEIGHTS = np.array([3.0, 1.0, 2.0, 5.0, 0.5, 4.0, 1.5, 2.5])


def cost_of(genes):
    return float(WEIGHTS @ SPACE.kept(genes)) / float(WEIGHTS.sum())


def error_of(genes):
    """Separable: each group has a width that is best for it."""
    best = np.array([20, 5, 25, 10, 30, 12, 8, 28])
    return float(np.abs(np.array(genes) - best).mean())


PROBLEM = Problem(SPACE, cost_of, Window(0.48, 0.52))


def search(how, seed, problem=PROBLEM, judge=error_of):
    judged = {}
    for generation in range(how.generations):
        found = next_generation(how, problem, judged, generation, seed)
        judged |= {genes: judge(genes) for genes in found}
    return judged


def test_widths_are_truncated_and_at_least_one():
    space = Space(("a", "b"), (100, 3), (0, 1))
    assert space.scales == tuple(10 + 3 * i for i in range(31))
    assert space.counts((16, 0)) == {"a": 58, "b": 1}  # int(100 * 0.58) would be 57
    for units in range(1, 200):
        own = Space(("a",), (units,), (0,))
        for place in range(31):
            assert own.widths((place,)) == [max(1, units * (10 + 3 * place) // 100)]


def test_tied_groups_have_one_gene():
    space = laid("R50").space
    assert space.size == 20 < len(space.names)
    genes = tuple(range(20))
    counts = space.counts(genes)
    assert counts["layer3.2.conv1"] == counts["layer3.2.conv2"]
    assert counts["layer3.2.conv1"] != counts["layer3.3.conv1"]


def test_every_candidate_is_new_and_within_the_budget():
    how = Evolution(population=30, generations=8, mutations=15, crossovers=15)
    judged = {}
    for generation in range(how.generations):
        found = next_generation(how, PROBLEM, judged, generation, 0)
        assert len(found) == 30 == len(set(found))
        assert not set(found) & set(judged)
        assert all(cost_of(genes) in PROBLEM.window for genes in found)
        judged |= {genes: error_of(genes) for genes in found}


def test_one_seed_is_one_search_and_it_goes_on_from_what_was_judged():
    how = Evolution(population=20, generations=4, mutations=10, crossovers=10)
    whole = search(how, 3)
    assert list(whole.items()) == list(search(how, 3).items())
    assert list(whole) != list(search(how, 4))
    half = dict(list(whole.items())[:40])  # what a killed search left
    assert next_generation(how, PROBLEM, half, 2, 3) == list(whole)[40:60]


def test_parents_are_the_best_ever_seen():
    how = Evolution(population=40, generations=1, parents=1, mutations=40, crossovers=0,
                    mutation_rate=0.1)  # fmt: skip
    problem = Problem(SPACE, cost_of, Window(0.0, 1.0))
    best = (15,) * 8
    judged = {(3,) * 8: 0.9, best: 0.1, (25,) * 8: 0.5}
    found = next_generation(how, problem, judged, 0, 0)
    changed = [sum(a != b for a, b in zip(one, best, strict=True)) for one in found]
    assert np.mean(changed) < 2.5  # eight genes at a tenth; far from the other two


def test_a_mutation_changes_a_tenth_of_the_genes_and_never_to_what_they_were():
    rng = np.random.default_rng(0)
    parent = tuple(rng.integers(0, 31, 1000).tolist())
    children = [mutated(SPACE, parent, 0.1, rng) for _ in range(200)]
    changed = np.array([[a != b for a, b in zip(one, parent, strict=True)] for one in children])
    assert changed.mean() == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / changed.size))
    always = mutated(SPACE, parent, 1.0, rng)
    assert all(a != b and 0 <= a < 31 for a, b in zip(always, parent, strict=True))


def test_a_crossing_takes_each_gene_from_either_parent():
    rng = np.random.default_rng(0)
    child = crossed((0,) * 2000, (1,) * 2000, rng)
    assert np.mean(child) == pytest.approx(0.5, abs=0.05)


def test_it_is_better_than_as_many_random_candidates():
    how = Evolution(population=20, generations=10, mutations=10, crossovers=10)
    chance = Evolution(population=20, generations=10, mutations=0, crossovers=0)
    gains = [min(search(chance, seed).values()) - min(search(how, seed).values())
             for seed in range(10)]  # fmt: skip
    assert min(gains) > 0


def test_where_nothing_new_is_left_there_are_no_candidates():
    space = Space(("a",), (4,), (0,), (25, 50, 75, 100))
    problem = Problem(space, lambda genes: float(space.kept(genes)[0]), Window(0.4, 0.8))
    found = next_generation(Evolution(population=10), problem, {}, 0, 0)
    assert sorted(found) == [(1,), (2,)]
    assert next_generation(Evolution(population=10), problem, dict.fromkeys(found, 1.0), 1, 0) == []


@pytest.mark.parametrize("fraction", [0.9, 0.5, 0.15])
@pytest.mark.parametrize("name", ["V1", "V2", "R50"])
def test_a_first_population_is_there_for_every_budget(name, fraction):
    one = laid(name)

    def macs(genes):
        return one.flops(one.space.kept(genes))

    full = macs(one.space.top)
    window = Window(0.98 * fraction * full, fraction * full)
    problem = Problem(one.space, macs, window)
    found = next_generation(Evolution(), problem, {}, 0, 0)
    assert len(found) == 50
    assert all(problem.feasible(genes) for genes in found)
    spread = np.std([one.space.kept(genes) for genes in found], axis=0)
    assert spread.mean() > 0.02, "all alike"


def test_tight_budgets_that_even_drawing_never_meets_are_met():
    """Of 200,000 even drawings none has at most 42 M MACs."""
    one = laid("V1")

    def macs(genes):
        return one.flops(one.space.kept(genes)) / 2e6

    rng = np.random.default_rng(0)
    assert draw_near(one.space, macs, Window(40.0, 42.0), 0.3, rng) is not None


def test_a_repair_ends_where_no_width_is_within_the_budget():
    space = Space(("a",), (2,), (0,), (50, 100))
    rng = np.random.default_rng(0)
    half = Window(0.6, 0.9)
    assert repair(space, (1,), lambda genes: float(space.kept(genes)[0]), half, rng) is None
    assert repair(space, (0,), lambda genes: float(space.kept(genes)[0]), half, rng) is None


@pytest.mark.parametrize("window", [Window(0.0, 0.05), Window(1.1, 1.2)])
def test_a_budget_out_of_reach_is_refused_with_the_range(window):
    with pytest.raises(
        ThinetError, match=r"target=flops:0\.05 is out of reach: .*between 0\.\d+ a"
    ):
        check_reachable(SPACE, cost_of, window, "flops:0.05")
    check_reachable(SPACE, cost_of, Window(0.4, 0.5), "flops:0.5")

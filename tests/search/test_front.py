"""The search along a range of costs: a seed a search, better than chance, within the range."""

from __future__ import annotations

import builtins
import re
import sys
from functools import partial

import numpy as np
import pytest

from tests.search.test_evolution import SPACE, cost_of, error_of
from thinet.base.errors import ThinetError, problems_of
from thinet.search import front
from thinet.search.budget import Window
from thinet.search.evolution import Problem
from thinet.search.front import check_pymoo, next_on_front, pareto_front
from thinet.search.settings import Evolution
from thinet.widths.space import Space

PROBLEM = Problem(SPACE, cost_of, Window(0.2, 0.8))
HOW = Evolution(population=20, generations=6)


def both(genes):
    """Narrow groups err, each as much as it is worth: no front is a straight line of widths."""
    worth = np.array([1.0, 6.0, 0.5, 1.0, 4.0, 0.3, 2.0, 3.0])
    kept = SPACE.kept(genes)
    return float(worth @ (1 - kept) ** 2 / worth.sum())


def search(how=HOW, seed=0, problem=PROBLEM, judge=both, judged=(), first=0):
    judged = dict(judged)
    for generation in range(first, how.generations):
        found = next_on_front(how, problem, judged, generation, seed)
        judged |= {genes: judge(genes) for genes in found}
    return judged


def volume(judged):
    """What the front beats of the box up to an error of 1 and a cost of 0.8."""
    points = sorted((cost_of(genes), error) for genes, error in judged.items())
    total, best = 0.0, 1.0
    for cost, error in points:
        if error < best:
            total += (0.8 - cost) * (best - error)
            best = error
    return total


def test_every_candidate_is_new_and_within_the_range():
    judged = {}
    for generation in range(6):
        found = next_on_front(HOW, PROBLEM, judged, generation, 0)
        assert len(found) == 20 == len(set(found))
        assert not set(found) & set(judged)
        assert all(0.2 <= cost_of(genes) <= 0.8 for genes in found)
        assert all(type(gene) is int and 0 <= gene <= 30 for genes in found for gene in genes)
        judged |= {genes: both(genes) for genes in found}


def test_children_outside_of_a_narrow_range_are_brought_into_it(monkeypatch):
    """Few are within it by themselves."""
    narrow = Problem(SPACE, cost_of, Window(0.50, 0.505))
    judged = {genes: both(genes) for genes in next_on_front(HOW, narrow, {}, 0, 0)}
    monkeypatch.setattr(front, "_spread", lambda *_: iter([]))  # which would make up the number
    monkeypatch.setattr(front, "ROUNDS", 2)
    found = next_on_front(HOW, narrow, judged, 1, 0)
    assert len(found) == 20
    assert all(0.50 <= cost_of(genes) <= 0.505 for genes in found)


def test_children_that_cannot_be_brought_into_the_range_are_left_out(monkeypatch):
    narrow = Problem(SPACE, cost_of, Window(0.50, 0.505))
    judged = {genes: both(genes) for genes in next_on_front(HOW, narrow, {}, 0, 0)}
    monkeypatch.setattr(front, "_into", lambda problem, genes, rng: genes)
    found = next_on_front(HOW, narrow, judged, 1, 0)
    assert len(found) == 20
    assert all(0.50 <= cost_of(genes) <= 0.505 for genes in found)


def test_the_first_candidates_lie_along_the_whole_range():
    found = next_on_front(Evolution(population=30), PROBLEM, {}, 0, 0)
    slices = {int((cost_of(genes) - 0.2) / 0.6 * 30 - 1e-9) for genes in found}
    assert len(slices) >= 28
    assert np.std([SPACE.kept(genes) for genes in found], axis=0).mean() > 0.1, "all alike"


def test_a_seed_is_a_search_whatever_else_draws():
    state = np.random.get_state()
    whole = search()
    assert all(np.array_equal(one, two) for one, two in
               zip(state, np.random.get_state(), strict=True))  # fmt: skip
    np.random.seed(5)
    assert list(search().items()) == list(whole.items())
    assert list(search(seed=1)) != list(whole)


def test_one_that_was_stopped_goes_on_as_if_it_had_not_been():
    whole = search()
    for done in (20, 60, 100):
        half = list(whole.items())[:done]
        assert list(search(judged=half, first=done // 20).items()) == list(whole.items())


def test_its_front_is_better_than_that_of_as_many_random_candidates():
    how, chance = Evolution(20, 10), Evolution(200, 1)
    gains = [volume(search(how, seed)) - volume(search(chance, seed)) for seed in range(4)]
    assert min(gains) > 0.01


def test_it_finds_both_ends_of_the_range():
    judged = search(Evolution(20, 10))
    costs = [cost_of(genes) for genes in judged]
    best = pareto_front([(error, cost_of(genes)) for genes, error in judged.items()])
    on = [costs[place] for place in best]
    assert min(on) < 0.25
    assert max(on) > 0.7
    assert len(best) > 20


def test_where_nothing_new_is_left_there_are_no_candidates():
    space = Space(("a",), (4,), (0,), (25, 50, 75, 100))
    problem = Problem(space, lambda genes: float(space.kept(genes)[0]), Window(0.4, 0.8))
    found = next_on_front(Evolution(population=10), problem, {}, 0, 0)
    assert sorted(found) == [(1,), (2,)]
    some = {(1,): 0.5}
    assert next_on_front(Evolution(population=10), problem, some, 1, 0) == [(2,)]
    assert next_on_front(Evolution(population=10), problem, dict.fromkeys(found, 1.0), 1, 0) == []
    one = Space(("a",), (4,), (0,), (100,))
    alone = Problem(one, lambda genes: 1.0, Window(0.5, 1.0))
    assert next_on_front(Evolution(population=3), alone, {(0,): 0.1}, 1, 0) == []


def test_it_is_silent(capfd):
    from pymoo.config import Config

    search(how=Evolution(10, 3))
    assert capfd.readouterr() == ("", "")
    assert not Config.warnings["not_compiled"]


def brute(points):
    def beats(one, other):
        return one[0] <= other[0] and one[1] <= other[1] and one != other

    return {place for place, own in enumerate(points)
            if not any(beats(other, own) for other in points)}  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_no_other_beats(seed):
    rng = np.random.default_rng(seed)
    points = [tuple(rng.integers(0, 8, 2).tolist()) for _ in range(rng.integers(1, 40))]
    best = pareto_front(points)
    assert set(best) == brute(points)
    assert len(best) == len(set(best))
    costs = [points[place][1] for place in best]
    assert costs == sorted(costs)


def test_of_equal_candidates_all_are_on_the_front_and_of_none_none():
    assert pareto_front([(0.1, 0.5), (0.2, 0.5), (0.1, 0.5), (0.3, 0.4)]) == [3, 0, 2]
    assert pareto_front([]) == []


def test_without_pymoo_it_says_what_to_type(monkeypatch):
    known = builtins.__import__

    def without(name, *more, **settings):
        if name.startswith("pymoo"):
            raise ImportError(name)
        return known(name, *more, **settings)

    for name in [name for name in sys.modules if name.startswith("pymoo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    for call in (check_pymoo, lambda: next_on_front(HOW, PROBLEM, {}, 0, 0)):
        with pytest.raises(ThinetError, match=r"pip install 'thinet\[pareto\]'"):
            call()


@pytest.mark.parametrize("settings", [{"population": 0}, {"generations": 1.5}, {"spread": "x"}])
def test_settings_that_make_no_sense_are_refused(settings):
    (name,) = settings
    (problem,) = problems_of(partial(Evolution, **settings), place="search")
    assert re.search(rf"search\.{name}=", problem)


def test_errors_that_are_all_alike_do_no_harm():
    judged = search(judge=lambda genes: 0.5, how=Evolution(10, 4))
    assert len(judged) == 40
    assert error_of(next(iter(judged))) >= 0

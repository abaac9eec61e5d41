"""No budget makes the search hang: on every network of conf/model, from 90 to 15 % of the FLOPs."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml

from thinet.base.errors import ThinetError
from thinet.metrics import cost_model
from thinet.models import build
from thinet.search.budget import Window, check_reachable
from thinet.search.evolution import Problem, next_generation
from thinet.search.settings import Evolution
from thinet.surgery import trace
from thinet.widths.space import Space

CONF = Path(__file__).parents[2] / "conf" / "model"
MODELS = [path.stem for path in sorted(CONF.glob("*.yaml")) if path.stem not in
          ("torchvision", "timm")]  # fmt: skip
BUDGETS = (0.9, 0.7, 0.5, 0.3, 0.15)


@cache
def laid(name):
    """Groups and FLOPs of a network, by its shapes."""
    given = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    size, build_of = given["image_size"], given["build"]
    with torch.device("meta"):
        network = build(build_of.pop("_target_"), **build_of, num_classes=10, image_size=size)
        images = torch.empty(1, 3, size, size)
    graph = trace(network, images)
    names = graph.prunable(summed=True)
    model = cost_model(network, graph, names, "flops", (3, size, size))
    space = Space.of(graph, names)
    full = model(space.kept(space.top))
    return space, lambda genes: float(model(space.kept(genes)) / full)


def different(space):
    """One width vector for each that rounds to other channels."""
    genes = [list({space.widths((gene,) * space.size)[place]: gene
                   for gene in range(len(space.scales))}.values())
             for place in range(space.size)]  # fmt: skip
    return product(*genes)


@pytest.mark.parametrize("name", MODELS)
def test_the_first_population_is_within_any_budget(name):
    space, cost_of = laid(name)
    for budget in BUDGETS:
        problem = Problem(space, cost_of, Window(0.95 * budget, budget))
        found = next_generation(Evolution(population=20), problem, {}, 0, seed=0)
        assert len(found) == len(set(found))
        assert all(0.95 * budget <= cost_of(one) <= budget for one in found)
        if len(found) < 20:  # so few widths that all of them can be looked at
            within = sum(cost_of(one) in problem.window for one in different(space))
            assert bool(found) == bool(within), budget


@pytest.mark.parametrize("name", MODELS)
def test_one_out_of_reach_is_refused(name):
    space, cost_of = laid(name)
    below = 0.9 * cost_of(space.bottom)
    window = Window(0.95 * below, below)
    with pytest.raises(ThinetError, match="out of reach"):
        check_reachable(space, cost_of, window, "flops:tiny")
    assert next_generation(Evolution(population=5), Problem(space, cost_of, window), {}, 0, 0) == []

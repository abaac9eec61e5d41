"""What widths cost: fractions of FLOPs, parameters and milliseconds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import thinet
from tests.search.test_search_widths import QUICK, TRAIN, VALIDATION, make
from thinet.base.errors import ThinetError
from thinet.metrics import LatencyTable, cost, kept_table, latency_timing
from thinet.metrics.latency_fit import Reading, fitted
from thinet.metrics.latency_table import Check
from thinet.models.small_vgg import vgg_small
from thinet.search.budget import draw_near
from thinet.search.costs import cost_of_target, widths_of
from thinet.surgery import remove_, shared_copy, trace
from thinet.widths.choose import Request, choose_groups
from thinet.widths.space import Space
from thinet.widths.target import Target

SHAPE = (3, 8, 8)


@pytest.fixture
def problem():
    network = make()
    images = torch.zeros(2, *SHAPE)
    graph = trace(network, images[:1])
    names, _ = choose_groups(network, graph, Request(layers="all"), images)
    return network, graph, Space.of(graph, names)


def table_for(network, space):
    """Of a machine on which each unit of a group takes its place in microseconds."""
    widths = widths_of(space)
    networks = [{name: choice[k] for name, choice in widths.items()} for k in (0, 3, -1)]
    parts = [
        fitted(Reading(name, (({name: 1.0}, 0.0),)), networks,
               np.array([1e-3 * place * one[name] for one in networks]), 31)
        for place, name in enumerate(space.names, 1)
    ]  # fmt: skip
    return LatencyTable(
        latency_timing.conditions_of(network, SHAPE),
        dict(zip(space.names, space.units, strict=True)),
        {name: choice[0] for name, choice in widths.items()},
        tuple(parts), 0.0, (Check(1.0, 1.0),), 3, 0.0,
    )  # fmt: skip


def microseconds(space, genes):
    return sum(place * width for place, width in enumerate(space.widths(genes), 1))


@pytest.mark.parametrize("kind", ["flops", "params"])
def test_flops_and_params_are_those_of_the_network_that_is_left(kind, problem):
    network, graph, space = problem
    found = cost_of_target(Target(kind, 0.5), network, graph, space, SHAPE)
    assert found.full == getattr(cost(network, SHAPE), kind)
    assert found.of(space.top) == 1
    genes = tuple(range(3, 3 + space.size))
    keep = {name: range(count) for name, count in space.counts(genes).items()}
    left = getattr(cost(remove_(shared_copy(network), graph, keep), SHAPE), kind)
    assert found.of(genes) == pytest.approx(left / found.full)


def test_milliseconds_are_those_of_the_table(problem):
    network, graph, space = problem
    costs = cost_of_target(
        Target("latency", 0.5), network, graph, space, SHAPE, table_for(network, space)
    )
    full = microseconds(space, space.top)
    assert costs.full == pytest.approx(full / 1e3)
    for genes in (space.bottom, (7,) * space.size, tuple(range(space.size))):
        assert costs.of(genes) == pytest.approx(microseconds(space, genes) / full)
    window = costs.window(Target("latency", amount=full / 4e3), 0.1)
    assert (window.low, window.high) == pytest.approx((0.225, 0.25))
    with pytest.raises(ThinetError, match="leaves nothing to save"):
        costs.window(Target("latency", amount=full), 0.1)
    genes = draw_near(space, costs.of, window, 0.3, np.random.default_rng(0))
    assert costs.of(genes) in window


def test_a_search_within_a_latency(problem, tmp_path):
    network, graph, space = problem
    table = table_for(network, space)
    full = microseconds(space, space.top)
    for target in ("latency:0.5", f"latency:{full / 2:g}us"):
        found = thinet.search_widths(network, TRAIN, VALIDATION, target, table=table, **QUICK)
        for one in found.judged:
            assert 0.475 <= microseconds(space, one.genes) / full <= 0.5
            assert one.cost == pytest.approx(microseconds(space, one.genes) / full)
    # A folder keeps what is measured; its file is taken too, and refused for another network.
    made = kept_table(tmp_path, network, graph, widths_of(space), SHAPE)
    (file,) = tmp_path.iterdir()
    asked = {**QUICK, "tolerance": 0.5, "target": "latency:0.999"}
    for table in (tmp_path, file, str(file)):
        found = thinet.search_widths(network, TRAIN, VALIDATION, table=table, **asked)
        costs = cost_of_target(Target("latency", 0.5), network, graph, space, SHAPE, made)
        assert all(one.cost == costs.of(one.genes) for one in found.judged)
    wider = vgg_small(3, 8, widths=(8, 24))
    with pytest.raises(ThinetError, match=r"table=.*\.json was measured for another network"):
        thinet.search_widths(wider, TRAIN, VALIDATION, table=file, **asked)

"""Golden numbers of the paper's networks, counted in the authors' code; MACs are half our FLOPs."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import thinet
from tests.search.paper import NETWORKS, SHAPE, laid, mobilenet_v2_genes, resnet50_genes
from thinet.models.mobilenet_v1 import mobilenet_v1
from thinet.surgery import remove_, shared_copy

ONE = [19, 9, 15, 13, 10, 9, 10, 6, 9, 13, 11, 12, 7, 18, 7, 13, 12, 10, 19, 18]
TWO = [23, 17, 16, 17, 16, 16, 18, 20, 18, 25, 11, 29, 22, 18, 13, 27, 17, 23, 23, 20]
NARROW = [28, 18, 10, 23, 23, 22, 22, 13, 17, 28, 17, 25, 29]
OVERALL = [14, 12, 11, 11, 8, 8, 8, 7, 7, 7, 7, 8, 8, 8, 14, 14, 14, 8]
INNER = [6, 5, 2, 15, 7, 17, 14, 5, 11, 12, 12, 11, 6, 16, 14, 13, 14]
BIAS = 1000  # the authors count that of the classifier as MACs


@cache
def of(name):
    return laid(name)


def million_macs(name, genes):
    one = of(name)
    return (one.flops(one.space.kept(genes)) / 2 + BIAS) / 1e6


@pytest.mark.parametrize(("name", "macs"), [("V1", 568.74), ("V2", 569.52), ("R50", 4089.19)])
def test_full_width(name, macs):
    assert round(million_macs(name, of(name).space.top), 2) == macs


@pytest.mark.parametrize(("name", "genes"), [("V1", 13), ("V2", 25), ("R50", 20)])
def test_there_are_as_many_free_genes(name, genes):
    assert of(name).space.size == genes


@pytest.mark.parametrize(("width", "macs"), [(0.75, 325.7), (0.5, 150.0), (0.25, 41.8)])
def test_uniform_mobilenet_v1(width, macs):
    """The authors' count has the classifier at its full 1,024 inputs."""
    with torch.device("meta"):
        network = mobilenet_v1(1000, 224, width)
    found = thinet.cost(network, SHAPE).flops / 2 + 1000 * 1024 * (1 - width)
    assert round(found / 1e6, 1) == macs


def test_mobilenet_v1_as_the_search_reads_its_widths_and_as_the_evaluation_does():
    assert round(million_macs("V1", tuple(NARROW)), 1) == 313.2
    assert round(million_macs("V1", (NARROW[-1], *NARROW[:-1])), 1) == 311.7  # off by one


def test_mobilenet_v2():
    genes = mobilenet_v2_genes(of("V2").space, OVERALL, INNER)
    assert round(million_macs("V2", genes), 2) == 104.87


@pytest.mark.parametrize(("ids", "macs", "params"), [(ONE, 1027.56, 10.53), (TWO, 1989.93, 15.67)])
def test_resnet50(ids, macs, params):
    one = of("R50")
    genes = resnet50_genes(one.space, ids)
    assert round(million_macs("R50", genes), 2) == macs
    slim = remove_(
        shared_copy(one.network, "meta"), one.graph,
        {name: range(count) for name, count in one.space.counts(genes).items()},
    )  # fmt: skip
    found = sum(p.numel() for name, p in slim.named_parameters()
                if p.dim() > 1 or name == "fc.bias")  # fmt: skip
    assert round(found / 1e6, 2) == params
    assert thinet.cost(slim, SHAPE).flops == one.flops(one.space.kept(genes))


@pytest.mark.parametrize(("name", "million"), [("V1", 106.1), ("V2", 242.0), ("R50", 776.1)])
def test_the_authors_pruning_net(name, million):
    parameters = of(name).pruning_net().parameters()
    assert round(sum(one.numel() for one in parameters) / 1e6, 1) == million


@pytest.mark.parametrize("name", NETWORKS)
def test_the_closed_form_is_what_materialised_networks_cost(name):
    one, rng = of(name), np.random.default_rng(0)
    for _ in range(3):
        genes = tuple(rng.integers(0, len(one.space.scales), one.space.size).tolist())
        keep = {group: range(count) for group, count in one.space.counts(genes).items()}
        slim = remove_(shared_copy(one.network, "meta"), one.graph, keep)
        found, kept = thinet.cost(slim, SHAPE), one.space.kept(genes)
        assert one.flops(kept) == pytest.approx(found.flops, rel=1e-9)
        assert one.params(kept) == pytest.approx(found.params, rel=1e-9)

"""Rank-k and average precision against loops by hand, scikit-learn and torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_hit_rate

from thinet.datasets.retrieval import Retrieval, everyone
from thinet.metrics import retrieval as module
from thinet.metrics.retrieval import count_lost, search


def similarities(features: torch.Tensor) -> np.ndarray:
    values = features.double().numpy()
    values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return values @ values.T


def by_hand(similar: np.ndarray, wanted: Retrieval) -> list[list[float]]:
    """Image by image, as the protocol is told; among equals, those that match come last."""
    ids, rows = wanted.ids.tolist(), []
    cameras = None if wanted.cameras is None else wanted.cameras.tolist()
    for query in wanted.query.tolist():
        ranking = []
        for place in wanted.gallery.tolist():
            same = ids[place] == ids[query] and ids[query] >= 0
            taken_together = cameras is not None and cameras[place] == cameras[query]
            if place == query or (same and taken_together):
                continue
            ranking.append((-similar[query, place], same))
        hits = [same for _, same in sorted(ranking)]
        places = [place for place, hit in enumerate(hits, 1) if hit]
        if not places:
            rows.append([math.nan] * 4)
            continue
        precisions = [number / place for number, place in enumerate(places, 1)]
        rows.append([float(places[0] <= k) for k in (1, 5, 10)] + [float(np.mean(precisions))])
    return rows


def same(found: torch.Tensor, wanted: list[list[float]]) -> None:
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), np.array(wanted), rtol=1e-6)


def draw(count: int = 120, seed: int = 0, people: int = 8, cameras: int | None = 3) -> tuple:
    """Features that tell people apart a little, and a search with distractors (ids below 0)."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(-1, people, (count,), generator=random)
    taken_by = None if cameras is None else torch.randint(0, cameras, (count,), generator=random)
    features = torch.randn(count, 6, generator=random)
    features += torch.randn(people + 1, 6, generator=random)[ids]
    order = torch.randperm(count, generator=random)
    return features, Retrieval(ids, taken_by, order[: count // 3], order[count // 4 :])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cameras", [None, 1, 3])
def test_it_is_what_a_loop_finds(seed, cameras, monkeypatch):
    features, wanted = draw(seed=seed, cameras=cameras)
    expected = by_hand(similarities(features), wanted)
    same(search(features, wanted), expected)
    monkeypatch.setattr(module, "AT_ONCE", 3 * len(wanted.gallery))
    same(search(features, wanted), expected)
    lost = sum(math.isnan(row[0]) for row in expected)
    assert count_lost(wanted) == lost
    assert 0 < lost < len(expected) or cameras == 1
    if cameras == 1:  # every match was taken by the query's own camera
        assert lost == len(expected)


def test_scikit_learn_finds_the_same_precision():
    features, wanted = draw(cameras=None)
    similar, ids = similarities(features), wanted.ids.numpy()
    found = search(features, wanted)
    for row, query in zip(found, wanted.query.tolist(), strict=True):
        others = [place for place in wanted.gallery.tolist() if place != query]
        if ids[query] >= 0:
            precision = average_precision_score(ids[others] == ids[query], similar[query, others])
            assert float(row[3]) == pytest.approx(precision, rel=1e-6)


def test_torchmetrics_finds_the_same_where_it_may_be_asked():
    """Its average precision leaves out matches whose score is not positive, so they are moved."""
    features, wanted = draw(cameras=None)
    similar = torch.from_numpy(similarities(features))
    rows = search(features, wanted)
    missed = 0
    for row, query in zip(rows, wanted.query.tolist(), strict=True):
        if wanted.ids[query] < 0:
            continue
        others = wanted.gallery[wanted.gallery != query]
        target, scores = wanted.ids[others] == wanted.ids[query], similar[query, others]
        assert float(row[3]) == pytest.approx(
            float(retrieval_average_precision(scores + 2, target)), rel=1e-6
        )
        missed += float(retrieval_average_precision(scores, target)) != pytest.approx(float(row[3]))
        for place, k in enumerate((1, 5, 10)):
            assert float(row[place]) == float(retrieval_hit_rate(scores + 2, target, top_k=k))
    assert missed > 5, "so it may not be given similarities as they are"


def test_equal_similarities_count_against_the_network():
    """All images in one point, among them a query's only match, whichever way they are ordered."""
    for ids in ([0, 0, 1, 2, 3], [0, 1, 2, 3, 0]):
        for point in (torch.ones(5, 3), torch.zeros(5, 3), torch.full((5, 3), torch.nan)):
            found = search(point, everyone(ids))
            same(found[:1], [[0.0, 1.0, 1.0, 1 / 4]])
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.1], [0.0, 1.0]])
    found = search(features, everyone([0, 1, 0, 0]))
    same(found[:1], [[0.0, 1.0, 1.0, (1 / 2 + 2 / 3) / 2]])


def test_the_nearest_floats_keep_their_order(monkeypatch):
    """What tells equals apart may not reach over the next similarity."""
    monkeypatch.setattr(module.F, "normalize", lambda values, dim: values)
    along = torch.tensor([1.0, 1.0, 1.0 - 2**-24, 0.5])  # the cosines to the first
    features = torch.stack([along, torch.zeros(4)], dim=1)
    for ids, first in (([0, 1, 0, 2], 0.0), ([0, 0, 1, 2], 1.0)):
        assert float(search(features, everyone(ids))[0, 0]) == first


def test_half_precision_is_not_compared_as_such():
    """In bfloat16 the two others would be equally near."""
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0625], [1.0, 0.078125]], dtype=torch.bfloat16)
    found = search(features, Retrieval(torch.tensor([0, 0, 1]), None, *2 * [torch.arange(3)]))
    assert float(found[0, 0]) == 1.0


def test_length_is_no_likeness():
    features = torch.tensor([[1.0, 0.0], [0.1, 0.0], [9.0, 9.0]])
    assert float(search(features, everyone([0, 0, 1]))[0, 0]) == 1.0


def test_nobody_looks_for_anything():
    features, wanted = draw(8)
    none = Retrieval(wanted.ids, None, wanted.query[:0], wanted.gallery)
    assert search(features, none).shape == (0, 4)
    empty = Retrieval(wanted.ids, None, wanted.query, wanted.gallery[:0])
    assert search(features, empty).isnan().all()
    assert count_lost(empty) == len(wanted.query)

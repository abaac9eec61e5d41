"""How well images find their like by features: rank-k and average precision of each query.

Rank-k is 1 where at least one match is among the first k (the cumulative matching characteristic;
rank-1 over classes is also called Recall@1). Both come from torchmetrics, which is given places in
the ranking and not the similarities: it takes no match of a score that is not positive for one, and
orders equal scores by chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_hit_rate

from thinet.datasets.retrieval import Retrieval

RANKS = (1, 5, 10)
AT_ONCE = 2**22
"""Similarities that are held at once; each takes some 40 bytes while they are put in order."""


def search(features: Tensor, wanted: Retrieval) -> Tensor:
    """How well each query finds its like among the gallery.

    An image never finds itself; matches that the query's own camera took are left out of the
    ranking, and negative ids match nothing. Among equal similarities those that are no match come
    first, so that a network that maps all images to one point finds nothing.

    Args:
        features: (N, d), of all test images; compared in float32.
        wanted: Which of them look for which others.

    Returns:
        float64 (Q, 4): rank-1, rank-5 and rank-10 (0 or 1) and the average precision; NaN for a
        query without any match.
    """
    features = F.normalize(features.float(), dim=1)
    places = torch.arange(len(wanted.gallery), 0, -1, dtype=torch.float32)
    rows = [_figures(hits, places) for hits in _rankings(features, wanted)]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, len(RANKS) + 1)


def _figures(hits: Tensor, places: Tensor) -> list[float]:
    if not hits.any():
        return [torch.nan] * (len(RANKS) + 1)
    first = slice(max(RANKS))
    found = [retrieval_hit_rate(places[first], hits[first], top_k=rank) for rank in RANKS]
    return [float(one) for one in (*found, retrieval_average_precision(places, hits))]


def _rankings(features: Tensor, wanted: Retrieval) -> Iterator[Tensor]:
    """For each query (G,), on the CPU: whether the first, the second, ... of its ranking match."""
    looked_through = features[wanted.gallery.to(features.device)]
    for some in wanted.query.split(max(1, AT_ONCE // max(len(wanted.gallery), 1))):
        similar = (features[some.to(features.device)] @ looked_through.T).double()
        match, left_out = (one.to(features.device) for one in _matches(wanted, some))
        # A float32 is even as a float64, so that the next one below it lies between it and the
        # next lower float32: equal similarities are told apart, others keep their order.
        similar = similar.nan_to_num(nan=-2.0)
        similar = torch.where(match, torch.nextafter(similar, similar - 1), similar)
        order = similar.masked_fill(left_out, -torch.inf).argsort(dim=1, descending=True)
        yield from match.gather(1, order).cpu()


def _matches(wanted: Retrieval, query: Tensor) -> tuple[Tensor, Tensor]:
    """Two bool (q, G): what matches, and what is left out of the ranking."""
    own, others = wanted.ids[query][:, None], wanted.ids[wanted.gallery]
    same = (own == others) & (own >= 0)
    left_out = query[:, None] == wanted.gallery
    if wanted.cameras is not None:
        camera = wanted.cameras[query][:, None]
        left_out = left_out | (same & (camera == wanted.cameras[wanted.gallery]))
    return same & ~left_out, left_out


def count_lost(wanted: Retrieval) -> int:
    """How many queries have no match in the gallery, whatever their features."""
    ids, gallery = wanted.ids.tolist(), wanted.gallery.tolist()
    apart = range(len(ids)) if wanted.cameras is None else wanted.cameras.tolist()
    by_id = Counter(ids[place] for place in gallery)
    left_out = Counter((ids[place], apart[place]) for place in gallery)
    return sum(
        ids[place] < 0 or by_id[ids[place]] == left_out[ids[place], apart[place]]
        for place in wanted.query.tolist()
    )

"""What is looked for among what, where images of the same thing are to be found again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Retrieval:
    """Which test images look for which others.

    Attributes:
        ids: int64 (N,), identity or class of each test image. A negative one never matches.
        cameras: int64 (N,), or None where none are known. A match that the query's own camera
            took is left out.
        query: int64 (Q,), positions in the test part of the images that look.
        gallery: int64 (G,), positions of those looked through. An image never finds itself.
    """

    ids: Tensor
    cameras: Tensor | None
    query: Tensor
    gallery: Tensor


def everyone(labels: Sequence[int]) -> Retrieval:
    """Each test image looks for those of its class among all others.

    Args:
        labels: One class index per test image.
    """
    positions = torch.arange(len(labels))
    return Retrieval(torch.as_tensor(labels, dtype=torch.int64), None, positions, positions)

"""Units whose filters are not all zero."""

from __future__ import annotations

from torch import Tensor

from thinet.pruning.criteria.criterion import Candidates, per_unit


def living(candidates: Candidates) -> Tensor:
    """Which units have a weight that is not zero, in any layer of the group.

    Criteria whose score is not smallest for a filter of zeros ask, in order to drop those first.

    Returns:
        bool ``(units,)`` on the CPU.
    """
    return per_unit(candidates.filters, candidates.units, _nonzero) > 0


def _nonzero(filters: Tensor) -> Tensor:
    return filters.flatten(1).ne(0).any(dim=1)

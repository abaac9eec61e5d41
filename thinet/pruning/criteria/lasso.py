"""Channel selection by the LASSO (He et al. 2017)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import lars_path_gram
from torch import Tensor

from thinet.pruning.criteria.criterion import Candidates, Criterion
from thinet.pruning.statistics import ContributionMoments, Evidence, Statistic

RIDGE = 1e-8
"""Added to the Gram matrix, relative to its mean diagonal: see :func:`lasso_order`."""


def lasso_order(gram: Tensor) -> Tensor:
    """Channels by when they enter the LASSO path for good, from second moments alone.

    The path minimises ||X 1 - X beta||^2 + lambda |beta|_1 while lambda falls from where beta is
    zero to 0. A channel ranks by the lambda below which its coefficient is never zero again, then
    by the size of that coefficient in the end, then by its energy and its index. As in the
    authors' code columns are not normalised: a channel that contributes more enters sooner.

    Scikit-learn's path loses its way when it meets a column that the active ones span. So columns
    equal to an earlier one are left out (they come last but for dead ones: with the first of them
    in, they add nothing), and a ridge of 1e-8 keeps the others apart.

    Args:
        gram: G = X^T X, ``(C, C)``.

    Returns:
        int64 ``(C,)``, the first to keep first. Dead channels come last.
    """
    G = gram.detach().cpu().numpy().astype(np.float64)
    energy = G.diagonal()
    order = np.arange(len(G))
    enters, ends = np.zeros(len(G)), np.zeros(len(G))
    distinct = np.flatnonzero((energy > 0) & ~_repeated(G))
    if len(distinct):
        enters[distinct], ends[distinct] = _path(G[np.ix_(distinct, distinct)], G[distinct].sum(1))
    # Rounded, because ties of the path differ in the last digits; lexsort's last key counts most.
    keys = (order, -_rounded(energy, 9), -_rounded(ends, 6), -_rounded(enters, 9))
    ranked = order[np.lexsort(keys)]
    dead = energy[ranked] <= 0
    return torch.from_numpy(np.concatenate([ranked[~dead], ranked[dead]]))


def _path(
    gram: NDArray[np.float64], products: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lambda at which each channel enters for good, and its size at the end of the path.

    Args:
        gram: G of the channels, ``(C, C)``, without zeros on the diagonal.
        products: X^T y, ``(C,)``.
    """
    # Scikit-learn's tolerances are absolute.
    scale = np.abs(products).max()
    if scale == 0:
        return np.zeros(len(gram)), np.zeros(len(gram))
    padded = (gram + RIDGE * gram.diagonal().mean() * np.eye(len(gram))) / scale
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # it ends where nothing is left
        # A step takes a channel in or out; a path has few more steps than channels.
        alphas, _, coefficients = lars_path_gram(
            products / scale, padded, n_samples=1, method="lasso", max_iter=10 * len(gram)
        )
    zero = coefficients == 0
    last = zero.shape[1] - 1 - zero[:, ::-1].argmax(axis=1)  # the last knot at which it is zero
    return alphas[last] * (last < zero.shape[1] - 1), np.abs(coefficients[:, -1])


def _repeated(gram: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which columns of X equal an earlier one: ||x_i - x_j||^2 is nothing beside ||x_i||^2."""
    energy = gram.diagonal()
    apart = energy[:, None] + energy[None, :] - 2 * gram
    equal: NDArray[np.bool_] = apart <= 1e-12 * energy[:, None]
    return np.asarray(np.tril(equal, -1).any(axis=1))


def _rounded(values: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Values relative to the largest, to so many digits behind the point."""
    largest = np.abs(values).max(initial=0.0)
    return np.round(values / largest, digits) if largest > 0 else values


@dataclass(frozen=True)
class Lasso(Criterion):
    """Keeps the units that the LASSO takes up first to reproduce what the next layers read.

    Source: He et al., Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017
    (arXiv:1707.06168), eq. 2, on ThiNet's sampled contributions instead of all outputs.
    """

    needs: ClassVar[tuple[type[Statistic[Any]], ...]] = (ContributionMoments,)

    def rank(self, candidates: Candidates, evidence: Evidence, seed: int) -> Tensor:
        """See :meth:`Criterion.rank`."""
        return lasso_order(evidence[ContributionMoments].gram)

"""Correlation congruence: the student relates the images of a batch as the teacher does.

Source: Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from thinet.losses.precision import in_full
from thinet.surgery import without_autocast

KERNELS = ("mmd", "bilinear", "rbf")
_EPSILON = 1e-12


@without_autocast
def correlation(
    features: Tensor,
    kernel: str = "rbf",
    gamma: float = 0.4,
    order: int | None = 2,
    normalize: bool = True,
) -> Tensor:
    """The matrix ``phi(f_i, f_j)`` of a batch, computed in float32 at least.

    - ``mmd``: ``|mean(f_i) - mean(f_j)|``, means over the elements of a feature.
    - ``bilinear``: ``f_i . f_j``.
    - ``rbf``: ``exp(-gamma |f_i - f_j|^2)``, as the Taylor series of its factor
      ``exp(2 gamma f_i . f_j)`` around 0 up to a power, or exactly. For features of length 1 the
      series is ``sum_p exp(-2 gamma) (2 gamma)^p / p! (f_i . f_j)^p``; for others each feature
      brings its own ``exp(-gamma |f|^2)``.

    Source: Peng et al. 2019, section on the kernels. The formulas were found in second-hand
    accounts that agree, not in the paper itself.

    Args:
        features: ``(N, d)``.
        kernel: ``mmd``, ``bilinear`` or ``rbf``.
        gamma: Of ``rbf``.
        order: Highest power of the series of ``rbf``; None for the exact kernel.
        normalize: Divide each feature by its Euclidean length first. A feature of zeros stays so,
            and gets no gradient.

    Returns:
        ``(N, N)``, symmetric.

    Raises:
        ValueError: If the features are no matrix, or an option makes no sense.
    """
    if features.dim() != 2:
        raise ValueError(f"features of {tuple(features.shape)} are no matrix (N, d)")
    features = in_full(features)
    if normalize:
        features = _unit(features)
    if kernel == "bilinear":
        return features @ features.T
    if kernel == "mmd":
        means = features.mean(dim=1)
        return (means[:, None] - means[None, :]).abs()
    if kernel != "rbf":
        raise ValueError(f"kernel={kernel} is none of {', '.join(KERNELS)}")
    return _rbf(features, gamma, order, normalize)


def _rbf(features: Tensor, gamma: float, order: int | None, unit: bool) -> Tensor:
    if not gamma > 0 or (order is not None and order < 1):
        raise ValueError(f"gamma={gamma}, order={order}: both are positive")
    products = features @ features.T
    if order is None:
        squares = products.diagonal()
        distances = squares[:, None] + squares[None, :] - 2 * products
        return (-gamma * distances.clamp_min(0)).exp()
    term = torch.ones_like(products)
    total = term
    for power in range(1, order + 1):
        term = term * products * (2 * gamma / power)
        total = total + term
    if unit:
        return math.exp(-2 * gamma) * total
    own = (-gamma * features.square().sum(dim=1)).exp()
    return own[:, None] * own[None, :] * total


def _unit(features: Tensor) -> Tensor:
    """Each row over its length. Rows of zeros would get gradients of 1 / epsilon."""
    length = features.norm(dim=1, keepdim=True)
    return torch.where(length > _EPSILON, features / length.clamp_min(_EPSILON), 0 * features)


def correlation_congruence(
    student: Tensor,
    teacher: Tensor,
    kernel: str = "rbf",
    gamma: float = 0.4,
    order: int | None = 2,
    normalize: bool = True,
) -> Tensor:
    """``L_CC = 1/N^2 sum_ij (phi(s_i, s_j) - phi(t_i, t_j))^2``: see :func:`correlation`.

    Both matrices are N x N, so that the features may have different lengths. No gradient reaches
    the teacher.

    Args:
        student: Features ``(N, d)``.
        teacher: Features ``(N, e)`` of the same images.
        kernel: See :func:`correlation`; ``gamma``, ``order`` and ``normalize`` too.
        gamma: As above.
        order: As above.
        normalize: As above.

    Returns:
        A scalar.

    Raises:
        ValueError: If the numbers of images differ, or as :func:`correlation`.
    """
    if len(student) != len(teacher):
        raise ValueError(f"features of {len(student)} and of {len(teacher)} images")
    own = correlation(student, kernel, gamma, order, normalize)
    theirs = correlation(teacher.detach(), kernel, gamma, order, normalize)
    return F.mse_loss(own, theirs.to(own.dtype))

"""Losses between networks, and of images that a network judges: pure functions of tensors."""

from thinet.losses.correlation import KERNELS, correlation, correlation_congruence
from thinet.losses.data_free import (
    activation,
    batchnorm_statistics,
    discrepancy,
    information_entropy,
    one_hot,
)
from thinet.losses.soft_targets import soft_targets

__all__ = [
    "KERNELS",
    "activation",
    "batchnorm_statistics",
    "correlation",
    "correlation_congruence",
    "discrepancy",
    "information_entropy",
    "one_hot",
    "soft_targets",
]

"""Losses between networks: pure functions of tensors."""

from thinet.losses.correlation import KERNELS, correlation, correlation_congruence
from thinet.losses.soft_targets import soft_targets

__all__ = ["KERNELS", "correlation", "correlation_congruence", "soft_targets"]

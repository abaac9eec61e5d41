"""The theoretical speed-up that papers on binary networks print."""

from __future__ import annotations

PER_CLOCK = 64
"""1-bit operations in one clock of the model, in which a floating-point one takes a clock, too."""


def theoretical_speedup(order: int, channels: int, area: int) -> float:
    """S_K = 64 c N_W / (K c N_W + 64 (K + 1)) of a convolution.

    Source: Rastegari et al. 2016 for K = 1; for K > 1 reconstructed from HORQ's complexity of K
    binary and K + 1 floating-point operations, which gives the factors of its table. It assumes
    one floating-point operation a clock: processors of today do 32 and more.

    Args:
        order: K.
        channels: c, of the input.
        area: N_W, positions of a filter: 9 of 3x3.
    """
    work = channels * area
    return PER_CLOCK * work / (order * work + PER_CLOCK * (order + 1))

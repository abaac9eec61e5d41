"""What binary layers should gain by counting operations alone, as the papers do."""

from __future__ import annotations

_LANES = 64  # 1-bit multiply-accumulates that take the time of one floating-point one


def theoretical_speedup(order: int, channels: int, kernel_area: int) -> float:
    """How many times faster a binary convolution is, by the paper's formula.

    S_K = 64 c N_W / (K c N_W + 64 (K + 1)) with c input channels and filters of N_W places: K
    binary products and K + 1 floating-point operations an output, where 64 binary operations take
    the time of a floating-point one (HORQ's count of operations, as read from secondary accounts,
    with the 64 of XNOR-Net). That is a processor that does one floating-point product a step: those
    that do 16 and more at once leave a fraction of it, see ``experiments/binary_speed``.

    Args:
        order: K, bits of an activation.
        channels: Of the input.
        kernel_area: Places of a filter: 9 of a 3x3 one, 1 of a linear layer.
    """
    products = channels * kernel_area
    return _LANES * products / (order * products + _LANES * (order + 1))

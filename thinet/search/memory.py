"""What a hypernetwork takes, before it is made."""

from __future__ import annotations

import os

import torch
from torch import nn

from thinet.base.errors import ThinetError
from thinet.search.hypernet import Making, PruningNet
from thinet.widths.space import Space
from thinet.surgery import ChannelGraph, shared_copy

COPIES = 3
"""Weights, their gradients, and the momentum of SGD."""


def count_parameters(network: nn.Module, graph: ChannelGraph, space: Space, making: Making) -> int:
    """Parameters of the hypernetwork, found on paper."""
    with torch.device("meta"):
        net = PruningNet(shared_copy(network, "meta"), graph, space, making)
    return sum(one.numel() for one in net.parameters())


def check_memory(
    network: nn.Module, graph: ChannelGraph, space: Space, making: Making, device: torch.device
) -> None:
    """Refuse a hypernetwork that is larger than the memory that is free.

    Raises:
        ThinetError: With its size and ways to shrink it.
    """
    count = count_parameters(network, graph, space, making)
    needed, free = 4 * COPIES * count, free_bytes(device)
    if needed > free:
        raise ThinetError(
            f"the hypernetwork has {count / 1e6:.3g} M parameters and takes about "
            f"{needed / 2**30:.2g} GiB with gradients and momentum, and {free / 2**30:.2g} GiB are "
            "free: pass making=Making(hidden=8), Making(rank=16) or Making(shared=True)."
        )


def free_bytes(device: torch.device) -> int:
    """Memory that is free where networks are."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

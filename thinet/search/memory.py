"""What a hypernetwork takes, before it is made."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from thinet.base.errors import ThinetError
from thinet.search.hypernet import PruningNet
from thinet.search.settings import Making
from thinet.surgery import ChannelGraph, shared_copy
from thinet.widths.space import Space

COPIES = 3
"""Weights, their gradients, and the momentum of SGD."""
MEMINFO = Path("/proc/meminfo")


def count_parameters(network: nn.Module, graph: ChannelGraph, space: Space, making: Making) -> int:
    """Parameters of the hypernetwork, found on paper."""
    with torch.device("meta"):
        net = PruningNet(shared_copy(network, "meta"), graph, space, making)
    return sum(one.numel() for one in net.parameters())


def check_memory(
    network: nn.Module,
    graph: ChannelGraph,
    space: Space,
    making: Making,
    device: torch.device,
    typed: bool = False,
) -> int:
    """Refuse a hypernetwork that is larger than the memory that is free.

    Args:
        network: At full width.
        graph: Its trace.
        space: The widths to choose among.
        making: How weights are made.
        device: Where it will be.
        typed: Whether settings are typed on a command line.

    Returns:
        Its parameters.

    Raises:
        ThinetError: With its size and ways to shrink it.
    """
    count = count_parameters(network, graph, space, making)
    needed, free = 4 * COPIES * count, free_bytes(device)
    if needed > free:
        ways = (
            "type proxy.build.hidden=8, proxy.build.rank=16, proxy.build.shared=true or "
            "proxy=prune, which needs none"
            if typed
            else "pass making=Making(hidden=8), Making(rank=16) or Making(shared=True)"
        )
        raise ThinetError(
            f"the hypernetwork has {count / 1e6:.3g} M parameters and takes about "
            f"{needed / 2**30:.2g} GiB with gradients and momentum, and {free / 2**30:.2g} GiB are "
            f"free: {ways}."
        )
    return count


def free_bytes(device: torch.device) -> int:
    """Memory that can be had where networks are; where nobody says, all that there is."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    if MEMINFO.exists():  # what caches hold is given back when it is needed
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

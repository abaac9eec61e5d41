"""A network that can be put on at any widths and takes a stamp whenever a layer is called."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thinet.base.errors import ThinetError
from thinet.metrics.latency_fit import Counts
from thinet.metrics.latency_table import Floats
from thinet.surgery import ChannelGraph, Crops, Dressed

TRIES = 5
"""Passes until a whole one is taken although something else ran in between."""


class Timed:
    """A copy of a network that can be put on at any widths, and times its own parts.

    Args:
        network: Nothing is shared with it.
        graph: Its trace.
        names: The groups whose widths change.
        stamped: Whether it times its parts.
    """

    def __init__(
        self, network: nn.Module, graph: ChannelGraph, names: Mapping[str, object],
        stamped: bool = True,
    ) -> None:  # fmt: skip
        self._crops = Crops(graph, tuple(names))
        self._dressed = Dressed(network, self._crops)
        self._tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        self.network = self._dressed.network.eval()
        self._on_gpu = next(network.parameters()).device.type == "cuda"
        self._stamped = stamped
        self._stamps: list[tuple[str, Any, int]] = []
        known = {id(self._tensors[name]): name for name in graph.facts.work}
        for path, module in network.named_modules() if stamped else ():
            for tensor in module._parameters.values():
                if id(tensor) in known:
                    self._listen(self.network.get_submodule(path), known[id(tensor)])
                    break

    def put_on(self, counts: Mapping[str, int]) -> Timed:
        """Make it so wide, of tensors of its own, laid out as the full network's."""
        kept = [counts[name] for name in self._crops.names]
        self._dressed.wear({
            name: self._crops(name, tensor, kept).detach().clone()
            for name, tensor in self._tensors.items()
        })  # fmt: skip
        return self

    def steady_ms(self, images: Tensor) -> Floats:
        """Of a pass in which nothing else got the processor, if there is one among a few.

        One that is stamped is taken as it is: some parts of it are undisturbed.
        """
        for _ in range(1 if self._stamped else TRIES):
            found = self.pass_ms(images)
            if not np.isnan(found[1]).any():
                break
        return found

    def pass_ms(self, images: Tensor) -> Floats:
        """Milliseconds until the first layer, and from the call of each to that of the next.

        Returns:
            Shape ``(2, parts)``: as they are, and NaN where something else got the processor.
        """
        self._stamps.clear()
        self._stamp("")
        self.network(images)
        if self._on_gpu and not self._stamped:
            torch.cuda.synchronize(images.device)
        self._stamp("")
        if self._on_gpu and self._stamped:
            torch.cuda.synchronize(images.device)
        found = []
        for (_, start, before), (_, end, after) in pairwise(self._stamps):
            timed = self._on_gpu and self._stamped
            ms = start.elapsed_time(end) if timed else 1e3 * (end - start)
            found.append((ms, ms if before == after else math.nan))
        return np.array(found).T

    @property
    def called(self) -> list[str]:
        """The weights whose layers were called in the last pass, in order."""
        return [name for name, _, _ in self._stamps[1:-1]]

    def _listen(self, module: nn.Module, weight: str) -> None:
        module.register_forward_pre_hook(lambda *_: self._stamp(weight))

    def _stamp(self, name: str) -> None:
        if self._on_gpu and self._stamped:
            moment: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            moment.record()
        else:
            moment = time.perf_counter()
        self._stamps.append((name, moment, _interruptions()))


def turns(
    rack: Sequence[Timed],
    counts: Sequence[Counts],
    called: Sequence[str],
    images: Tensor,
    passes: int,
) -> Floats:
    """Milliseconds of each part of some networks that take turns.

    Returns:
        Shape ``(networks, passes, 2, parts)``; see :meth:`Timed.pass_ms`.
    """
    timed = [one.put_on(widths) for one, widths in zip(rack, counts, strict=False)]
    found = np.empty((len(timed), passes, 2, len(called) + 1))
    for turn in range(-1, passes):
        for place, one in enumerate(timed):
            ms = one.steady_ms(images)
            if one.called != list(called):
                raise ThinetError(
                    "its layers are called in another order when their widths change, so that "
                    "latency cannot be added up: type for example target=flops:0.5."
                )
            if turn >= 0:
                found[place, turn] = ms
    return found


def _interruptions() -> int:
    """How often the system took the processor away from this process; 0 where it does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw

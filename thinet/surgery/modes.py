"""Running a network as it is deployed, or exactly, and leaving all as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """``eval()`` mode inside; afterwards, and after an error, every module's own mode again."""
    modes = {module: module.training for network in networks for module in network.modules()}
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Float32 arithmetic in full inside: no TensorFloat-32, no bfloat16 products, no autocast.

    GPUs convolve float32 maps in TensorFloat-32 by default, with an error of 1e-3, and so do the
    products of some CPUs if asked to. Afterwards each backend has the precision that it had, now
    set explicitly (torch cannot tell a default from a setting), so that a later
    ``torch.backends.fp32_precision`` for all of them no longer reaches it.

    Args:
        device: Where the network runs.
    """
    backends: Any = torch.backends  # their attributes are made at run time
    places = [
        backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul,
        backends.mkldnn.conv, backends.mkldnn.rnn, backends.mkldnn.matmul,
    ]  # fmt: skip
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        with torch.autocast("cpu" if device.type == "meta" else device.type, enabled=False):
            yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, for which an autocast around its call is switched off."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return function(*args, **kwargs)

    return wrapped

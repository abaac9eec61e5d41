"""What BatchNorm layers see of a batch, and what they have seen in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from thinet.base.errors import ThinetError
from thinet.engine.gathering import everyones
from thinet.losses.precision import in_full
from thinet.models.classifier import tensors_in

Statistics = list[tuple[Tensor, Tensor]]
"""Of each layer means and variances ``(C,)``."""


def batchnorms(network: nn.Module) -> dict[str, _BatchNorm]:
    """The layers that keep statistics, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and module.running_var is not None
    }


def stored_in(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(C,)`` that a layer has gathered in training."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var


def over_all(means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(C,)`` over equally large parts of a batch, from theirs ``(parts, C)``.

    Squares are taken of differences from the mean, so that nothing cancels out.
    """
    mean = means.mean(0)
    return mean, (variances + (means - mean).square()).mean(0)


@contextmanager
def watching(network: nn.Module) -> Iterator[Callable[[], tuple[Statistics, Statistics]]]:
    """Within, the statistics that BatchNorm layers saw in the passes so far can be read.

    Args:
        network: In ``eval()`` mode. A layer that runs several times counts each time.

    Yields:
        A function that gives what was found over the batch of all processes, with gradient to the
        images of this one, and what the layers have stored, and begins anew.
    """
    seen: list[tuple[_BatchNorm, Tensor]] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        assert isinstance(module, _BatchNorm)
        (given,) = map(in_full, tensors_in(args, kwargs))
        axes = [axis for axis in range(given.dim()) if axis != 1]
        variance, mean = torch.var_mean(given, axes, correction=0)
        seen.append((module, torch.cat([mean, variance])))

    def read() -> tuple[Statistics, Statistics]:
        if not seen:
            raise ThinetError(
                "no BatchNorm layer of the network runs in eval() mode, so there are no statistics "
                "to compare with: set the weight of the batchnorm loss to 0."
            )
        moments = everyones(torch.cat([one for _, one in seen])[None])
        parts = moments.split([len(one) for _, one in seen], dim=1)
        found = [over_all(*one.chunk(2, dim=1)) for one in parts]
        stored = [stored_in(layer) for layer, _ in seen]
        seen.clear()
        return found, stored

    handles = [
        one.register_forward_pre_hook(note, with_kwargs=True)
        for one in batchnorms(network).values()
    ]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()
        seen.clear()

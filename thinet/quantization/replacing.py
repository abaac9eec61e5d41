"""Putting binary layers in the place of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from thinet.base.errors import ThinetError
from thinet.base.values import shown
from thinet.quantization.layers import BinaryConv2d, BinaryLinear
from thinet.quantization.reasons import unfit
from thinet.quantization.settings import Quantizer


def replaced(
    network: nn.Module,
    quantizer: Quantizer,
    binary: Sequence[str],
    norms: Sequence[str],
    removed: Sequence[str],
) -> nn.Module:
    """``network``, changed in place; see :func:`thinet.quantization.convert.binarized`.

    Raises:
        ThinetError: If a path leads to no such module; then nothing has been changed.
    """
    modules = dict(network.named_modules())
    others: dict[nn.Module, nn.Module] = {}
    for path in dict.fromkeys(binary):
        layer = _found(modules, path, "layer")
        reason = unfit(layer)
        if reason:
            raise ThinetError(f"layer {shown(path)} cannot become binary: {reason}.")
        others[layer] = _binary(layer, quantizer, path in norms)
    for path in dict.fromkeys(removed):
        relu = _found(modules, path, "ReLU")
        if type(relu) is not nn.ReLU:
            raise ThinetError(f"{shown(path)} is a {type(relu).__name__} and not a ReLU.")
        others[relu] = nn.Identity().train(relu.training)
    for module in modules.values():
        for name, child in module._modules.items():  # a module may have several names
            if child in others:
                module._modules[name] = others[child]
    return network


def _binary(layer: nn.Module, quantizer: Quantizer, norm: bool) -> nn.Module:
    """A binary layer with the weights of ``layer``."""
    if isinstance(layer, nn.Conv2d):
        weight = layer.weight
        made = (
            nn.BatchNorm2d(layer.in_channels, device=weight.device, dtype=weight.dtype)
            if norm
            else None
        )
        return BinaryConv2d.like(layer, quantizer, made)
    assert isinstance(layer, nn.Linear)  # by unfit
    weight = layer.weight
    before = (
        nn.BatchNorm1d(layer.in_features, device=weight.device, dtype=weight.dtype)
        if norm
        else None
    )
    return BinaryLinear.like(layer, quantizer, before)


def _found(modules: Mapping[str, nn.Module], path: str, what: str) -> nn.Module:
    if not path or path not in modules:
        raise ThinetError(f"the network has no {what} called {shown(path)!r}.")
    return modules[path]

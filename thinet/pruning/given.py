"""What a user hands over to be pruned: refused at once, in one sentence, if it cannot be."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thinet.base.errors import ThinetError, first_line
from thinet.surgery import check_network, evaluating


def copied(model: nn.Module) -> nn.Module:
    """A deep copy.

    Raises:
        ThinetError: If there is none.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever the network holds
        raise ThinetError(
            f"the network cannot be copied ({first_line(error)}): if it uses nn.utils.weight_norm, "
            "replace that by nn.utils.parametrizations.weight_norm."
        ) from error


def device_of(network: nn.Module) -> torch.device:
    """Where its parameters are.

    Raises:
        ThinetError: If it is no network that could be pruned.
    """
    check_network(network)
    if isinstance(network, torch.jit.ScriptModule):
        raise ThinetError(
            "a TorchScript network cannot be pruned: pass the nn.Module that it was made from."
        )
    parameter = next(iter(network.parameters()), None)
    if parameter is None:
        raise ThinetError("this network has no parameters, so there is nothing to prune.")
    return parameter.device


@torch.no_grad()
def check_runs(network: nn.Module, images: Tensor) -> None:
    """Refuse images that the network does not take, before any long work.

    Raises:
        ThinetError: Saying what they should be.
    """
    dtype = next(network.parameters()).dtype
    if images.dtype != dtype:
        raise ThinetError(
            f"the images are {_short(images.dtype)} but the network's weights are {_short(dtype)}: "
            f"pass images.to(torch.{_short(dtype)}) or convert the network."
        )
    try:
        with evaluating(network):
            output = network(images)
    except Exception as error:  # whatever the network's own code raises
        raise ThinetError(
            f"the network does not run on images of shape {tuple(images.shape)} "
            f"({first_line(error)}): pass images of the size and type that it was made for."
        ) from error
    if not all(
        bool(leaf.isfinite().all()) for leaf in tree_leaves(output) if torch.is_tensor(leaf)
    ):
        raise ThinetError(
            "the network's output for the first images is not finite: look for NaN or huge values "
            "in them, or train the network again with a smaller learning rate."
        )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""Giving a network the tensors of a file, whose shapes it takes over."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from thinet.artifacts.tensors import named_state
from thinet.base.errors import ThinetError
from thinet.base.safetensors_header import Entry
from thinet.surgery import set_widths_, widths


def check_fit(
    own: Mapping[str, Tensor], found: Mapping[str, Entry | Tensor], source: str = "the file"
) -> None:
    """Refuse tensors that cannot be those of a network, whole or with filters removed.

    Args:
        own: Of the network.
        found: Of the file: names, shapes and types.
        source: Named in the error.

    Raises:
        ThinetError: If names, numbers of axes or kinds of numbers do not fit, or a tensor is
            empty or larger than the network's.
    """
    odd = sorted(set(own) ^ set(found))
    odd += [name for name in own if name in found and not _fits(own[name], found[name])]
    if odd:
        raise ThinetError(
            f"the weights in {source} are of another architecture ({len(odd)} tensors differ, "
            f"first {odd[0][:100]}): pass a network of the architecture that was saved."
        )


def _fits(own: Tensor, found: Entry | Tensor) -> bool:
    shapes = zip(own.shape, found.shape, strict=False)
    both = own.dtype.is_floating_point and found.dtype.is_floating_point
    return (
        own.dim() == len(found.shape)
        and all(min(1, wide) <= slim <= wide for wide, slim in shapes)
        and (both or own.dtype == found.dtype)
    )


@torch.no_grad()
def load_state_(network: nn.Module, state: Mapping[str, Tensor], source: str = "the file") -> None:
    """Give a network the tensors of ``state``, taking over their shapes, in place.

    Raises:
        ThinetError: If they do not fit, see :func:`check_fit`.
    """
    own = named_state(network, state)
    check_fit(own, state, source)
    fresh: dict[int, Tensor] = {}
    for name, old in own.items():
        device = "cpu" if old.is_meta else old.device
        new = state[name].to(device=device, copy=True)
        is_parameter = isinstance(old, nn.Parameter)
        fresh[id(old)] = nn.Parameter(new, requires_grad=old.requires_grad) if is_parameter else new
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in list(tensors.items()):
                if tensor is not None and id(tensor) in fresh:
                    tensors[name] = fresh[id(tensor)]  # type: ignore[assignment]
                    module._non_persistent_buffers_set.discard(name)
        set_widths_(module, widths(module))


def layer_widths(network: nn.Module) -> dict[str, int]:
    """Filters of each convolution and units of each linear layer, by module path."""
    found = {}
    for name, module in network.named_modules():
        sizes = widths(module)
        filters = sizes.get("out_channels", sizes.get("out_features"))
        if filters is not None:
            found[name] = filters
    return found


def layer_kinds(network: nn.Module) -> dict[str, str]:
    """The class of each module with tensors of its own, by module path."""
    return {
        path: kind_of(module)
        for path, module in network.named_modules()
        if module._parameters or module._buffers
    }


def kind_of(module: nn.Module) -> str:
    """The class of a module; what is left of a BatchNorm that was synchronised is one, too."""
    one_of_many = isinstance(module, nn.modules.batchnorm._BatchNorm)
    return "BatchNorm" if one_of_many else type(module).__name__

"""Giving a network the tensors of a file, whose shapes it takes over."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from thinet.artifacts.tensors import named_state
from thinet.base.errors import ThinetError
from thinet.base.safetensors_header import Entry
from thinet.surgery import set_widths_, widths


@runtime_checkable
class ChecksTensors(Protocol):
    """A module that judges the tensors that it is given, its own and those of modules inside it.

    A packed layer, for example, computes other sums from a narrower tensor of bits, or from bits
    that were made for another number of activation bits. Shapes have to be its own exactly.
    """

    def fault_of(self, tensors: Mapping[str, Tensor]) -> str:
        """What is wrong with tensors of the right shapes, the end of a sentence; empty if nothing.

        Args:
            tensors: By their names in the module.
        """


def exact_tensors(network: nn.Module) -> set[str]:
    """Names of the tensors whose shapes may not differ: see :class:`ChecksTensors`."""
    found: set[str] = set()
    for path, module in network.named_modules():
        if isinstance(module, nn.Module) and isinstance(module, ChecksTensors):
            found.update(name for name, _ in module.named_parameters(path))
            found.update(name for name, _ in module.named_buffers(path))
    return found


def check_values(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors of the right shapes that a module of the network cannot have.

    Args:
        network: The network.
        state: Tensors by their names in it; on the ``meta`` device nothing is known of them.
        source: Named in the error.

    Raises:
        ThinetError: Naming the first such module.
    """
    for path, module in network.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, ChecksTensors):
            tensors = {
                name.removeprefix(prefix): tensor
                for name, tensor in state.items()
                if name.startswith(prefix)
            }
            fault = module.fault_of(tensors)
            if fault:
                raise ThinetError(
                    f"{path or 'the network'} in {source} {fault}: copy both files of the same "
                    "network again, or save it again."
                )


def check_fit(
    own: Mapping[str, Tensor],
    found: Mapping[str, Entry | Tensor],
    source: str = "the file",
    exact: Collection[str] = (),
) -> None:
    """Refuse tensors that cannot be those of a network, whole or with filters removed.

    Args:
        own: Of the network.
        found: Of the file: names, shapes and types.
        source: Named in the error.
        exact: Those that cannot have filters removed, see :func:`exact_tensors`.

    Raises:
        ThinetError: If names, numbers of axes or kinds of numbers do not fit, or a tensor is
            empty or larger than the network's.
    """
    odd = sorted(set(own) ^ set(found))
    both = (name for name in own if name in found)
    odd += [name for name in both if not _fits(own[name], found[name], name in exact)]
    if odd:
        raise ThinetError(
            f"the weights in {source} are of another architecture ({len(odd)} tensors differ, "
            f"first {odd[0][:100]}): pass a network of the architecture that was saved."
        )


def _fits(own: Tensor, found: Entry | Tensor, exact: bool) -> bool:
    if exact and tuple(own.shape) != tuple(found.shape):
        return False
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
        ThinetError: If they do not fit, see :func:`check_fit` and :func:`check_values`; then the
            network is left as it was.
    """
    own = named_state(network, state)
    check_fit(own, state, source, exact_tensors(network))
    check_values(network, state, source)
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
        if isinstance(module, ChecksTensors):  # it knows its sizes, and its tensors follow them
            sizes = vars(module)
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

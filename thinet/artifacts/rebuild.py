"""The network that a spec describes, made without more memory than its file has."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from thinet.artifacts.fill import check_fit, exact_tensors, load_state_
from thinet.artifacts.inherit import cut_
from thinet.artifacts.spec import Spec
from thinet.artifacts.tensors import named_state
from thinet.artifacts.transforms import transformed
from thinet.base.allowlist import is_below, own_packages
from thinet.base.errors import ThinetError
from thinet.base.safetensors_header import Entry
from thinet.models import build

_WIDER = 64  # a network at full width may have so many times the numbers that are left of it


def rebuilt(
    spec: Spec,
    header: Mapping[str, Entry | Tensor],
    read: Callable[[], dict[str, Tensor]],
    source: str,
) -> nn.Module:
    """Build, narrow, transform, compare with the header, and only then read and fill.

    Args:
        spec: With a builder.
        header: Names, shapes and types of the tensors.
        read: Gives the tensors, which are the only memory that the network takes.
        source: Named in errors.

    Raises:
        ThinetError: If the spec cannot be built, or the tensors are not those of its network.
    """
    network = skeleton(spec, header, source)
    check_fit(named_state(network, header), header, source, exact_tensors(network))
    state = read()
    more = _constants(network, header)
    if more:  # tables that a constructor computes and that no file holds
        full, held = (sum(t.numel() for t in ts.values()) for ts in (named_state(network), state))
        if full + more > _WIDER * held + 2**27:
            raise ThinetError(
                f"{source} holds {held} numbers of a network of {full + more}: pass the network "
                "yourself if that is right, thinet.load(folder, network=...)."
            )
        network = _made(spec, len(header), "cpu", source)
    load_state_(network, state, source)
    return network


def skeleton(spec: Spec, header: Mapping[str, Entry | Tensor], source: str) -> nn.Module:
    """What :func:`rebuilt` fills: without memory, unless the user's own code makes it.

    It is as wide as its builder makes it; with transforms, as it was when they were applied.
    """
    assert spec.builder is not None
    names = (spec.builder.target, *(one.target for one in spec.transforms))
    own = any(is_below(name, own_packages()) for name in names)
    return _made(spec, len(header), "cpu" if own else "meta", source)


def prepared(network: nn.Module, spec: Spec, source: str) -> nn.Module:
    """A copy of the user's own network, narrowed and transformed if the spec has transforms."""
    network = copy.deepcopy(network)
    if not spec.transforms:  # then it takes its widths over from the tensors
        return network
    with torch.random.fork_rng(devices=[]):
        return transformed(cut_(network, spec.keep, spec.input_shape, source), spec.transforms)


def _made(spec: Spec, tensors: int, device: str, source: str) -> nn.Module:
    assert spec.builder is not None
    with _few_modules(tensors), torch.random.fork_rng(devices=[]):
        with torch.device(device):
            network = build(spec.builder.target, **spec.builder.arguments)
        if not spec.transforms:  # then it takes its widths over from the tensors
            return network
        network = cut_(network, spec.keep, spec.input_shape, source)
        with torch.device(device):
            return transformed(network, spec.transforms)


@contextmanager
def _few_modules(tensors: int) -> Iterator[None]:
    """Within, no more modules are made than the tensors of a file can be of."""
    left = 16 * tensors + 256

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ThinetError(
                f"the spec describes a network of far more layers than the {tensors} tensors "
                "beside it: copy both files of the same network again."
            )

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _constants(network: nn.Module, held: Collection[str]) -> int:
    """Numbers that a network on the ``meta`` device has besides those that a file holds."""
    known = {id(tensor) for tensor in named_state(network, held).values()}
    total = 0
    for module in network.modules():
        own = [*module._buffers.values(), *vars(module).values()]
        for value in own:
            for one in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(one, Tensor) and one.is_meta and id(one) not in known:
                    total += max(one.numel(), 1)
    return total

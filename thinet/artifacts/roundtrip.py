"""What is written is read back on trial, before anything is written."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from thinet.artifacts.fill import check_fit, exact_tensors, kind_of, load_state_
from thinet.artifacts.rebuild import rebuilt, skeleton
from thinet.artifacts.spec import Spec
from thinet.artifacts.tensors import named_state
from thinet.base.errors import ThinetError
from thinet.surgery import difference

_SAME = 1e-3  # of two networks: the largest relative difference of what they compute
_ADVICE = "say what was done to its modules with Spec(transforms=...), or save it without a builder"


def check_loads(network: nn.Module, spec: Spec) -> None:
    """Refuse a network that would not be the same after :func:`thinet.load`.

    With a builder, the spec's own network is made and given the tensors of ``network``; without
    one, a copy with other weights is, as a new network has. What it computes afterwards tells
    whether they are all that counts. Nothing is said of what a network computes that does not run
    on one tensor of images, or not twice in the same way.

    Raises:
        ThinetError: Naming the first module or tensor that differs, if one does.
    """
    state = named_state(network)
    if spec.builder is None:
        _compare(network, lambda: _refilled(network), spec.input_shape)
        return
    source = "this network"
    made = skeleton(spec, state, source)
    _check_modules(network, made)
    exact = exact_tensors(made)
    _check_tensors(state, named_state(made, state), exact)
    check_fit(named_state(made, state), state, source, exact)
    twin = rebuilt(spec, state, lambda: state, source)
    first = next(network.parameters(), torch.zeros(()))
    _compare(network, lambda: twin.to(first.device), spec.input_shape, spec.builder.target)


def _refilled(network: nn.Module) -> nn.Module:
    twin = copy.deepcopy(network)
    for tensor in named_state(twin).values():
        tensor.zero_()
    load_state_(twin, named_state(network))
    return twin


def _check_modules(network: nn.Module, made: nn.Module) -> None:
    """Compare modules by path and class."""
    wanted, found = dict(network.named_modules()), dict(made.named_modules())
    for path in dict.fromkeys((*wanted, *found)):
        here, there = wanted.get(path), found.get(path)
        if here is None or there is None or kind_of(here) != kind_of(there):
            raise ThinetError(
                f"{path or 'the network'} is {_called(here)}, and the spec builds "
                f"{_called(there)} there: {_ADVICE}."
            )


def _called(module: nn.Module | None) -> str:
    return "nothing" if module is None else f"a {type(module).__name__}"


def _check_tensors(own: dict[str, Tensor], made: dict[str, Tensor], exact: set[str]) -> None:
    """Compare tensors by name and, as far as filters may be missing, shape and type."""
    for name in dict.fromkeys((*own, *made)):
        here, there = own.get(name), made.get(name)
        try:
            check_fit(
                {} if there is None else {name: there},
                {} if here is None else {name: here},
                exact=exact,
            )
        except ThinetError as error:
            raise ThinetError(
                f"{name} is {_sized(here)}, and the spec builds {_sized(there)} there: {_ADVICE}."
            ) from error


def _sized(tensor: Tensor | None) -> str:
    if tensor is None:
        return "nothing"
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def _compare(
    network: nn.Module, make: Callable[[], nn.Module], shape: Sequence[int], builder: str = ""
) -> None:
    if not shape:
        return
    generator = torch.Generator().manual_seed(0)
    first = next(network.parameters(), torch.zeros(()))
    images = torch.randn(2, *shape, generator=generator).to(first)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            noise = difference(network, network, images)
        except Exception:  # whatever the network's own code raises
            return
        try:
            off = difference(network, make(), images)
        except Exception:  # the same; what a builder makes has to run, and a copy cannot always
            off = math.inf if builder else 0.0
    if not noise <= _SAME < off:
        return
    if builder:
        raise ThinetError(
            f"{builder} of the spec builds a network that computes something else with the weights "
            f"of this one: {_ADVICE}."
        )
    raise ThinetError(
        "this network would not be the same after thinet.load, because it uses weights that it "
        "also holds outside of its parameters and buffers: read them from the modules that "
        "own them."
    )

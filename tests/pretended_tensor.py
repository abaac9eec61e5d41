"""Tensors that seem to lie on ``cuda:0`` and are computed by the CPU; see ``pretended_cuda``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
COPIES = {aten.copy_, aten._foreach_copy_, aten.fill_}
INDEXING = {
    aten.index, aten._unsafe_index, aten.index_put, aten.index_put_, aten._index_put_impl_,
    aten._unsafe_index_put,
}  # fmt: skip
SCALARS = {aten.masked_fill, aten.masked_fill_}
"""Operations that take scalars of the CPU, besides the pointwise ones."""


class PretendedTensor(Tensor):
    """Seems to lie on ``cuda:0``; ``held`` is the tensor of the CPU with its values."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> PretendedTensor:
        assert held.device.type == "cpu"
        with torch.inference_mode(held.is_inference()):  # a view of what was made outside is not
            made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
                dtype=held.dtype, layout=held.layout, device="meta",
            )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run_operation(func, args, kwargs or {})

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, PretendedTensor):
            raise NotImplementedError("setting .data to a tensor of another device")
        Tensor.data.__set__(self, value)
        self.held = value.held

    def numpy(self, *_, **__):
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )

    __array__ = numpy

    def tolist(self):
        return self.held.tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self):
        return self.held.untyped_storage()

    def get_device(self) -> int:
        return 0

    def is_pinned(self, *_) -> bool:
        return False

    def __format__(self, spec: str) -> str:
        return format(self.held, spec)

    def __repr__(self, **_) -> str:
        return f"{repr(self.held).removesuffix(')')}, device='cuda:0')"

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            if not self.is_leaf:
                raise RuntimeError("Only Tensors created explicitly by the user can be copied")
            new = PretendedTensor(self.held.detach().clone())
            new.requires_grad_(self.requires_grad)
            rest = {key: value for key, value in self.__dict__.items() if key != "held"}
            memo[id(self)] = new
            new.__dict__.update(copy.deepcopy(rest, memo))
            if self.grad is not None:
                new.grad = copy.deepcopy(self.grad, memo)
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        held = self.held.detach()
        return (nn.Parameter(held) if isinstance(self, nn.Parameter) else held).__reduce_ex__(
            protocol
        )


def is_pretended(value: Any) -> bool:
    return isinstance(value, PretendedTensor)


def tensors_in(*values: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and mappings (pytree takes ten times as long)."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(*value)
        elif isinstance(value, dict):
            found += tensors_in(*value.values())
    return found


def map_tensors(change: Callable[[Tensor], Any], value: Any) -> Any:
    """The value with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)([map_tensors(change, one) for one in value])
    return (
        {k: map_tensors(change, v) for k, v in value.items()} if isinstance(value, dict) else value
    )


def any_pretended(values: Iterable[Any]) -> bool:
    return any(
        any_pretended(value) if type(value) in (list, tuple) else is_pretended(value)
        for value in values
    )


class State:
    """What belongs to the device as a whole."""

    own = False
    """Whether a call with its tensors is under way: what lies on ``meta`` then lies here."""

    random: Tensor = torch.empty(0)
    """Of its generator."""


def run_operation(func, args, kwargs):
    """One operation that is asked of this device, or of the CPU on tensors of this device."""
    if _is_composite(func):
        with Operations():
            return func.decompose(*args, **kwargs)
    mine = {id(one.held): one for one in tensors_in(args, kwargs) if is_pretended(one)}
    place = _place(kwargs, bool(mine))
    if mine:
        _check_mix(func, args, kwargs)
    if place == "cuda":
        if kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
    plain = {
        **map_tensors(held_by, kwargs),
        **({"pin_memory": False} if kwargs.get("pin_memory") else {}),
    }
    with _own_random(func, place):
        result = _CUDNN.get(func.overloadpacket, func)(*map_tensors(held_by, args), **plain)
    if torch.Tag.inplace_view in func.tags:
        return return_and_correct_aliasing(func, args, kwargs, result)
    if func._schema.is_mutable and any(one.shape != one.held.shape for one in mine.values()):
        raise NotImplementedError(f"{func} changed the shape of a pretended tensor")
    if place != "cuda":
        return result
    # An argument that was written is its own result.
    return map_tensors(
        lambda one: mine[id(one)] if id(one) in mine else PretendedTensor(one), result
    )


@cache
def _is_composite(func) -> bool:
    """Whether it is made of others; that reaches us only from within another mode."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def held_by(value: Tensor) -> Tensor:
    return value.held if is_pretended(value) else value


def _place(kwargs, mine: bool) -> str:
    """Where the result of an operation lies: ``cuda``, ``cpu`` or ``meta``."""
    device = kwargs.get("device")
    if device is None:
        return "cuda" if mine else "cpu"
    device = torch.device(device)
    if device.type == "cuda" and device.index not in (None, 0):
        raise RuntimeError("CUDA error: invalid device ordinal")
    return "cuda" if device.type == "meta" and State.own else device.type


def _check_mix(func, args, kwargs) -> None:
    """Refuse what a GPU refuses about where the arguments lie."""
    tensors = tensors_in(args, kwargs)
    others = [tensor for tensor in tensors if not is_pretended(tensor)]
    if not others or len(others) == len(tensors) or func.overloadpacket in COPIES:
        return
    if func.overloadpacket in INDEXING:
        if not is_pretended(args[0]):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        others = [
            value for value in tensors_in(args[2:]) if not is_pretended(value) and value.dim()
        ]
    elif torch.Tag.pointwise in func.tags or func.overloadpacket in SCALARS:
        written = [
            value
            for value, argument in zip(args, func._schema.arguments, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        written += [kwargs[name] for name in ("out",) if name in kwargs]
        others = [
            one for one in others if one.dim() or one.is_meta or any(one is w for w in written)
        ]
    if others:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 "
            f"and {others[0].device}! ({func})"
        )


@contextmanager
def _own_random(func, place: str) -> Iterator[None]:
    """Draw from this device's generator, not from that of the CPU."""
    if place != "cuda" or torch.Tag.nondeterministic_seeded not in func.tags:
        yield
        return
    before = torch.get_rng_state()
    torch.set_rng_state(State.random)
    try:
        yield
    finally:
        State.random = torch.get_rng_state()
        torch.set_rng_state(before)


def _batch_norm(x, weight, bias, mean, variance, training, momentum, eps):
    found = aten.native_batch_norm(x, weight, bias, mean, variance, training, momentum, eps)
    return *found, x.new_empty(0, dtype=torch.uint8)


def _batch_norm_backward(x, grad, weight, mean, variance, save_mean, save_invstd, eps, reserve):
    return aten.native_batch_norm_backward(
        grad, x, weight, mean, variance, save_mean, save_invstd, True, eps, [True, True, True]
    )


_CUDNN: dict[Any, Callable[..., Any]] = {
    aten.cudnn_batch_norm: _batch_norm,
    aten.cudnn_batch_norm_backward: _batch_norm_backward,
}
"""Operations that the CPU does not know."""


class Operations(TorchDispatchMode):
    """Sees the operations that make tensors on this device out of none of its own."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        mine = any_pretended(args) or any_pretended(kwargs.values())
        here = mine or _place(kwargs, mine) == "cuda" or kwargs.get("pin_memory")
        if here or func.overloadpacket is aten.to:
            return run_operation(func, args, kwargs)
        return func(*args, **kwargs)

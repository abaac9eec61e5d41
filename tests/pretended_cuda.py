"""A pretended CUDA device: faults of devices show on machines without a GPU.

Within :func:`pretended_cuda` there seems to be one GPU, ``cuda:0``. Its tensors are computed by the
CPU, bit by bit as those of the CPU are, but they mix with CPU tensors no more freely than those of
a real GPU: only CPU scalars in pointwise operations, CPU indices and plain copies are let through.
What a real GPU refuses (``.numpy()``, a CPU generator, ...) is refused.

It differs from a real one in this: no TF32, no other rounding, no streams and no fused kernels,
memory is not counted, and a file of its tensors is loaded to the CPU.

How it works: a tensor of the device is a wrapper around a CPU tensor. Python reads ``cuda:0`` from
it; to C++ it lies on ``meta``, since autograd would look for the CUDA stream of every tensor that
lies on ``cuda``. :class:`_Operations` and each wrapper see every operation below autograd,
:class:`_Calls` sees what is called from Python, before C++ looks at a device.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest import mock

import lightning_fabric.accelerators.cuda
import pytorch_lightning.accelerators.cuda
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
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
        return _run(func, args, kwargs or {})

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


def _pretended(value: Any) -> bool:
    return isinstance(value, PretendedTensor)


def _tensors(*values: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and mappings (pytree takes ten times as long)."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(*value)
        elif isinstance(value, dict):
            found += _tensors(*value.values())
    return found


def _map(change: Callable[[Tensor], Any], value: Any) -> Any:
    """The value with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)([_map(change, one) for one in value])
    return {k: _map(change, v) for k, v in value.items()} if isinstance(value, dict) else value


class _State:
    """What belongs to the device as a whole."""

    own = False
    """Whether a call with its tensors is under way: what lies on ``meta`` then lies here."""

    random: Tensor = torch.empty(0)
    """Of its generator."""


def _run(func, args, kwargs):
    """One operation that is asked of this device, or of the CPU on tensors of this device."""
    if _is_composite(func):
        with _Operations():
            return func.decompose(*args, **kwargs)
    mine = {id(one.held): one for one in _tensors(args, kwargs) if _pretended(one)}
    place = _place(kwargs, bool(mine))
    if mine:
        _check_mix(func, args, kwargs)
    if place == "cuda":
        if kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
    plain = {**_map(_held, kwargs), **({"pin_memory": False} if kwargs.get("pin_memory") else {})}
    with _own_random(func, place):
        result = _CUDNN.get(func.overloadpacket, func)(*_map(_held, args), **plain)
    if torch.Tag.inplace_view in func.tags:
        return return_and_correct_aliasing(func, args, kwargs, result)
    if func._schema.is_mutable and any(one.shape != one.held.shape for one in mine.values()):
        raise NotImplementedError(f"{func} changed the shape of a pretended tensor")
    if place != "cuda":
        return result
    # An argument that was written is its own result.
    return _map(lambda one: mine[id(one)] if id(one) in mine else PretendedTensor(one), result)


@cache
def _is_composite(func) -> bool:
    """Whether it is made of others; that reaches us only from within another mode."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _held(value: Tensor) -> Tensor:
    return value.held if _pretended(value) else value


def _place(kwargs, mine: bool) -> str:
    """Where the result of an operation lies: ``cuda``, ``cpu`` or ``meta``."""
    device = kwargs.get("device")
    if device is None:
        return "cuda" if mine else "cpu"
    device = torch.device(device)
    if device.type == "cuda" and device.index not in (None, 0):
        raise RuntimeError("CUDA error: invalid device ordinal")
    return "cuda" if device.type == "meta" and _State.own else device.type


def _check_mix(func, args, kwargs) -> None:
    """Refuse what a GPU refuses about where the arguments lie."""
    tensors = _tensors(args, kwargs)
    others = [tensor for tensor in tensors if not _pretended(tensor)]
    if not others or len(others) == len(tensors) or func.overloadpacket in COPIES:
        return
    if func.overloadpacket in INDEXING:
        if not _pretended(args[0]):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        others = [value for value in _tensors(args[2:]) if not _pretended(value) and value.dim()]
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
    torch.set_rng_state(_State.random)
    try:
        yield
    finally:
        _State.random = torch.get_rng_state()
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


class _Operations(TorchDispatchMode):
    """Sees the operations that make tensors on this device out of none of its own."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        mine = any(_pretended(tensor) for tensor in _tensors(args, kwargs))
        here = mine or _place(kwargs, mine) == "cuda" or kwargs.get("pin_memory")
        if here or func.overloadpacket is aten.to:
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


class _Calls(TorchFunctionMode):
    """Sees the calls in which C++ would look at a device before it gets to an operation."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        before = _State.own
        _State.own = before or any(_pretended(tensor) for tensor in _tensors(args, kwargs))
        try:
            if _State.own and torch.is_autocast_enabled("cuda"):
                args, kwargs = _autocast(func, args, kwargs)
            return _CALLS.get(func, func)(*args, **kwargs)
        finally:
            _State.own = before


def _to(tensor: Tensor, *args, copy: bool = False, memory_format=None, **kwargs) -> Tensor:
    other = kwargs.pop("other", args[0] if args else None)
    if isinstance(other, Tensor):
        device, dtype = other.device, other.dtype
    else:
        device, dtype, _, form = torch._C._nn._parse_to(*args, **kwargs)
        memory_format = memory_format or form
    dtype, device = dtype or tensor.dtype, device or tensor.device
    layout = {} if memory_format is None else {"memory_format": memory_format}
    if device.type == tensor.device.type and device.index in (None, 0):
        return tensor.to(dtype, copy=copy, **layout)
    _State.own = device.type != "meta"
    if device.type == "meta":
        return _held(tensor).to(device, dtype, **layout)
    return aten._to_copy(tensor, dtype=dtype, device=device, **layout)


def _cuda(tensor: Tensor, device=CUDA, non_blocking: bool = False, **layout) -> Tensor:
    return _to(tensor, torch.device("cuda", device if isinstance(device, int) else 0), **layout)


def _cpu(tensor: Tensor, **layout) -> Tensor:
    return _to(tensor, "cpu", **layout)


def _made_of(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``torch.tensor`` and its like: C++ fills them on the CPU without an operation."""

    def call(data, dtype=None, device=None, **settings):
        like = [data] if isinstance(data, Tensor) else []
        if device is None and like and make is torch.as_tensor:
            device = data.device
        made = make(_held(data), dtype=dtype, **settings)
        if device is None or torch.device(device).type == "cpu":
            return made
        grad, made = made.requires_grad, made.detach()
        if like and _pretended(data) and make is torch.as_tensor and made is _held(data):
            return data
        return _to(made, device).requires_grad_(grad)

    return call


def _new_tensor(tensor: Tensor, data, dtype=None, device=None, **settings) -> Tensor:
    device = tensor.device if device is None else device
    return _made_of(torch.tensor)(data, dtype or tensor.dtype, device, **settings)


def _batch_norm_call(x, mean, variance, weight=None, bias=None, training=False, *settings, **more):
    """A GPU has an operation of its own for it."""
    types = {torch.float32: x.dtype, torch.float16: torch.float32, torch.float64: x.dtype}
    fits = weight is not None and bias is not None and weight.dtype == types.get(x.dtype)
    if not _pretended(x) or x.dim() < 3 or not fits or (mean is None and not training):
        return F.batch_norm(x, mean, variance, weight, bias, training, *settings, **more)
    rest = dict(zip(("momentum", "eps"), settings, strict=False)) | more
    momentum, eps = rest.get("momentum", 0.1), rest.get("eps", 1e-5)
    return aten.cudnn_batch_norm(x, weight, bias, mean, variance, training, momentum, eps)[0]


def _dropout_call(x, p=0.5, training=True, inplace=False):
    """A GPU has an operation of its own for it."""
    if not _pretended(x) or inplace or not training or not 0 < p < 1:
        return F.dropout(x, p, training, inplace)
    return torch.native_dropout(x, p, training)[0]


_LOWER = {
    F.linear, torch.matmul, torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose2d,
    F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d, Tensor.matmul, Tensor.__matmul__,
}  # fmt: skip
_FULL = {F.cross_entropy, F.softmax, F.log_softmax, torch.softmax, torch.log_softmax}


def _autocast(func, args, kwargs):
    """Autocasting as C++ does it for tensors that lie on ``cuda``."""
    if func not in _LOWER | _FULL:
        return args, kwargs
    dtype = torch.get_autocast_dtype("cuda") if func in _LOWER else torch.float32

    def cast(value):
        wide = _pretended(value) and value.is_floating_point() and value.dtype != torch.float64
        return value.to(dtype) if wide else value

    return _map(cast, args), _map(cast, kwargs)


_CALLS: dict[Any, Callable[..., Any]] = {
    Tensor.to: _to,
    Tensor.cuda: _cuda,
    Tensor.cpu: _cpu,
    Tensor.new_tensor: _new_tensor,
    Tensor.pin_memory: lambda tensor, *_: tensor.clone(),
    F.dropout: _dropout_call,
    F.batch_norm: _batch_norm_call,
    torch.tensor: _made_of(torch.tensor),
    torch.as_tensor: _made_of(torch.as_tensor),
}


def _apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Moving a module keeps its parameters the objects that they are, as on a real GPU."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return _module_apply(self, fn, recurse)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


_module_apply = nn.Module._apply
_group = nn.utils.clip_grad._group_tensors_by_device_and_dtype


def _grouped(tensors: list[list[Tensor]], with_indices: bool = False) -> dict[Any, Any]:
    """C++ groups by where the tensors lie."""
    return {
        (CUDA if key[0].type == "meta" else key[0], *key[1:]): value
        for key, value in _group(tensors, with_indices).items()
    }


def _seed(seed: int) -> None:
    _State.random = torch.Generator().manual_seed(int(seed)).get_state()


def _set_random(state: Tensor, device: Any = "cuda") -> None:
    _State.random = state.clone()


def _check_device(device: Any = None) -> None:
    if device is not None and torch.device(device).type != "cuda":
        raise ValueError(f"Expected a cuda device, but got: {device}")


class _Event:
    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, *_: Any) -> None: ...

    wait = synchronize = record

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: Any) -> float:
        return 1.0


def _functions() -> dict[str, Any]:
    """What ``torch.cuda`` says about the device."""
    about = SimpleNamespace(
        name="pretended GPU", major=8, minor=0, total_memory=2**34, multi_processor_count=1
    )
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": _check_device,
        "synchronize": _check_device,
        "empty_cache": lambda: None,
        "get_device_name": lambda device=None: about.name,
        "get_device_capability": lambda device=None: (about.major, about.minor),
        "get_device_properties": lambda device=None: about,
        "is_bf16_supported": lambda *_, **__: True,
        "reset_peak_memory_stats": _check_device,
        "max_memory_allocated": lambda device=None: _check_device(device) or 0,
        "memory_allocated": lambda device=None: _check_device(device) or 0,
        "memory_stats": lambda device=None: {},
        "mem_get_info": lambda device=None: (about.total_memory, about.total_memory),
        "manual_seed": _seed,
        "manual_seed_all": _seed,
        "get_rng_state": lambda device="cuda": _State.random.clone(),
        "get_rng_state_all": lambda: [_State.random.clone()],
        "set_rng_state": _set_random,
        "set_rng_state_all": lambda states: _set_random(states[0]),
        "Event": _Event,
    }


@contextmanager
def pretended_cuda() -> Iterator[torch.device]:
    """There is one GPU, ``cuda:0``, until the end of the block."""
    _seed(0)
    with ExitStack() as stack:
        for name, value in _functions().items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        for lightning in (lightning_fabric.accelerators.cuda, pytorch_lightning.accelerators.cuda):
            stack.enter_context(
                mock.patch.object(lightning, "_clear_cuda_memory", torch.cuda.empty_cache)
            )
        # C++ knows better: no capture of graphs, no thread that pins memory.
        stack.enter_context(
            mock.patch.object(torch.accelerator, "is_available", return_value=False)
        )
        stack.enter_context(mock.patch.object(nn.Module, "_apply", _apply))
        stack.enter_context(
            mock.patch.object(nn.utils.clip_grad, "_group_tensors_by_device_and_dtype", _grouped)
        )
        stack.enter_context(mock.patch.dict(os.environ))
        stack.enter_context(_Operations())
        stack.enter_context(_Calls())
        yield CUDA

"""A pretended CUDA device: faults of devices show on machines without a GPU.

Within :func:`pretended_cuda` there seems to be one GPU, ``cuda:0``. Its tensors are computed by the
CPU, bit by bit as those of the CPU are, but they mix with CPU tensors no more freely than those of
a real GPU: only CPU scalars in pointwise operations, CPU indices and plain copies are let through.
What a real GPU refuses (``.numpy()``, a CPU generator, ...) is refused.

It differs from a real one in this: no TF32, no other rounding, no streams and no fused kernels,
memory is not counted, and a file of its tensors is loaded to the CPU.

How it works: a tensor of the device is a wrapper around a CPU tensor. Python reads ``cuda:0`` from
it; to C++ it lies on ``meta``, since autograd would look for the CUDA stream of every tensor that
lies on ``cuda``. :class:`Operations` and each wrapper see every operation below autograd,
:class:`_Calls` sees what is called from Python, before C++ looks at a device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import lightning_fabric.accelerators.cuda
import pytorch_lightning.accelerators.cuda
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tests.pretended_tensor import (
    CUDA,
    Operations,
    State,
    any_pretended,
    aten,
    held_by,
    is_pretended,
    map_tensors,
)


class _Calls(TorchFunctionMode):
    """Sees the calls in which C++ would look at a device before it gets to an operation."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        before = State.own
        State.own = before or any_pretended(args) or any_pretended(kwargs.values())
        try:
            if State.own and torch.is_autocast_enabled("cuda"):
                args, kwargs = _autocast(func, args, kwargs)
            return _CALLS.get(func, func)(*args, **kwargs)
        finally:
            State.own = before


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
    State.own = device.type != "meta"
    if device.type == "meta":
        return held_by(tensor).to(device, dtype, **layout)
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
        made = make(held_by(data), dtype=dtype, **settings)
        if device is None or torch.device(device).type == "cpu":
            return made
        grad, made = made.requires_grad, made.detach()
        if like and is_pretended(data) and make is torch.as_tensor and made is held_by(data):
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
    if not is_pretended(x) or x.dim() < 3 or not fits or (mean is None and not training):
        return F.batch_norm(x, mean, variance, weight, bias, training, *settings, **more)
    rest = dict(zip(("momentum", "eps"), settings, strict=False)) | more
    momentum, eps = rest.get("momentum", 0.1), rest.get("eps", 1e-5)
    return aten.cudnn_batch_norm(x, weight, bias, mean, variance, training, momentum, eps)[0]


def _dropout_call(x, p=0.5, training=True, inplace=False):
    """A GPU has an operation of its own for it."""
    if not is_pretended(x) or inplace or not training or not 0 < p < 1:
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
        wide = is_pretended(value) and value.is_floating_point() and value.dtype != torch.float64
        return value.to(dtype) if wide else value

    return map_tensors(cast, args), map_tensors(cast, kwargs)


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


def _swap(one: Tensor, other: Tensor) -> None:
    """``torch.utils.swap_tensors``, whoever else still holds the tensors."""
    one.__class__, other.__class__ = other.__class__, one.__class__
    one.__dict__, other.__dict__ = other.__dict__, one.__dict__
    torch._C._swap_tensor_impl(one, other)


_module_apply = nn.Module._apply
_group = nn.utils.clip_grad._group_tensors_by_device_and_dtype


def _grouped(tensors: list[list[Tensor]], with_indices: bool = False) -> dict[Any, Any]:
    """C++ groups by where the tensors lie."""
    return {
        (CUDA if key[0].type == "meta" else key[0], *key[1:]): value
        for key, value in _group(tensors, with_indices).items()
    }


def _seed(seed: int) -> None:
    State.random = torch.Generator().manual_seed(int(seed)).get_state()


def _set_random(state: Tensor, device: Any = "cuda") -> None:
    State.random = state.clone()


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
        "get_rng_state": lambda device="cuda": State.random.clone(),
        "get_rng_state_all": lambda: [State.random.clone()],
        "set_rng_state": _set_random,
        "set_rng_state_all": lambda states: _set_random(states[0]),
        "Event": _Event,
        "is_current_stream_capturing": lambda: False,
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
        stack.enter_context(mock.patch.object(torch.utils, "swap_tensors", _swap))
        stack.enter_context(
            mock.patch.object(nn.utils.clip_grad, "_group_tensors_by_device_and_dtype", _grouped)
        )
        stack.enter_context(mock.patch.dict(os.environ))
        stack.enter_context(Operations())
        stack.enter_context(_Calls())
        yield CUDA

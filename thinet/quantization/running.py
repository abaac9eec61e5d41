"""Running a network of a stranger's once, on a copy, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from thinet.base.errors import ThinetError, first_line
from thinet.surgery import evaluating, shared_copy, without_autocast

R = TypeVar("R")


class DoesNotRunError(ThinetError):
    """A network that does not run on images of the shape that was given."""


@without_autocast
def on_one_image(network: nn.Module, images: Tensor, run: Callable[[nn.Module, Tensor], R]) -> R:
    """What ``run`` finds out from a copy and an image or two of the shape of ``images``.

    On the ``meta`` device, which takes neither arithmetic nor memory; a network that does not run
    there runs on zeros where it is.

    Args:
        network: Left as it was.
        images: ``(N, ...)``, on any device.
        run: Called with a copy of the modules, which may be changed, and the image.

    Raises:
        DoesNotRunError: If it raises on the ``meta`` device and with zeros.
        ThinetError: If the network cannot be copied.
    """
    floating = (one for one in network.parameters() if one.is_floating_point())
    parameter: Tensor = next(floating, torch.zeros(()))
    shape, dtype = (min(len(images), 2), *images.shape[1:]), parameter.dtype
    try:
        meta = torch.empty(shape, device="meta", dtype=dtype)
        return run(shared_copy(network, "meta"), meta)
    except Exception as error:  # its code makes tensors on a device, or looks at their values
        if parameter.is_meta:
            raise _refusal(shape, error) from error
    copy = copied(network, shared_copy)
    try:
        return run(copy, torch.zeros(shape, device=parameter.device, dtype=dtype))
    except Exception as error:  # whatever the network's own code raises
        raise _refusal(shape, error) from error


def copied(network: nn.Module, copy: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """What ``copy`` makes of a network.

    Raises:
        ThinetError: If it raises.
    """
    try:
        return copy(network)
    except Exception as error:  # whatever the network holds
        raise ThinetError(
            f"the network cannot be copied ({first_line(error)[:100]}): if it uses "
            "nn.utils.weight_norm, replace that by nn.utils.parametrizations.weight_norm, and if "
            "it uses nn.utils.prune, call prune.remove first."
        ) from error


def run_alone(copy: nn.Module, images: Tensor, around: AbstractContextManager[Any]) -> Any:
    """The output of a pass in ``eval()`` mode, of which nothing stays but in the copy.

    Args:
        copy: To be run; buffers are copied, which some networks write to.
        images: What on.
        around: Entered for the pass.
    """
    devices = [images.device] if images.device.type == "cuda" else []
    for module in copy.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.clone()
    with (
        torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices),
        evaluating(copy), _plain_attention(), around,
    ):  # fmt: skip
        return copy(images)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without torch's shortcut for transformers, which the ``meta`` device does not have."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _refusal(shape: tuple[int, ...], error: Exception) -> ThinetError:
    return DoesNotRunError(
        f"the network does not run on images of shape {shape} ({first_line(error)[:200]}): give "
        "images of the shape that it was made for."
    )

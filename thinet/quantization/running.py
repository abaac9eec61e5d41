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
    """What ``run`` finds out from a copy and one image of the shape of ``images``.

    Args:
        network: See :func:`traced`.
        images: See :func:`traced`.
        run: Called with a copy that shares no structure with the network, and the image.

    Raises:
        DoesNotRunError: If it raises on the ``meta`` device and with zeros.
    """
    floating = (one for one in network.parameters() if one.is_floating_point())
    parameter: Tensor = next(floating, torch.zeros(()))
    shape, dtype = (1, *images.shape[1:]), parameter.dtype
    try:
        return run(shared_copy(network, "meta"), torch.empty(shape, device="meta", dtype=dtype))
    except Exception as error:  # its code makes tensors on a device, or looks at their values
        if parameter.is_meta:
            raise _refusal(shape, error) from error
    try:
        zeros = torch.zeros(shape, device=parameter.device, dtype=dtype)
        return run(shared_copy(network), zeros)
    except Exception as error:  # whatever the network's own code raises
        raise _refusal(shape, error) from error


def run_alone(copy: nn.Module, images: Tensor, around: AbstractContextManager[Any]) -> Any:
    """The output of a pass in ``eval()`` mode, of which nothing stays.

    Args:
        copy: To be run.
        images: What on.
        around: Entered for the pass.
    """
    devices = [images.device] if images.device.type == "cuda" else []
    buffers = {key: one.clone() for key, one in copy.named_buffers()}  # some are written to
    with (
        torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices),
        evaluating(copy), _plain_attention(), around,
    ):  # fmt: skip
        return torch.func.functional_call(copy, buffers, (images,))


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

"""What the processes of a group learn from the first of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

from thinet.base.errors import ThinetError

T = TypeVar("T")


def agree(value: T, world: int) -> T:
    """The value of the first process, on every one of ``world`` processes."""
    if world == 1:
        return value
    import torch

    shared = [value]
    torch.distributed.broadcast_object_list(shared, 0)
    return shared[0]


def decided(choose: Callable[[], T], first: bool, agree: Callable[[object], object]) -> T:
    """What the first process finds, or the error that it meets, on every process.

    Args:
        choose: Called by the first process alone; it must not wait for the others.
        first: Whether this process is the first.
        agree: Gives every process the value of the first.

    Raises:
        ThinetError: What ``choose`` raises, on every process: were it raised on one, the others
            would wait for that one.
    """
    found: object = None
    if first:
        try:
            found = choose()
        except ThinetError as error:
            found = error
    found = agree(found)
    if isinstance(found, ThinetError):
        raise found
    return cast(T, found)


def leave_group() -> None:
    """Leave a process group of gloo, whose threads may abort a process that ends within it.

    One of NCCL is left alone: leaving it may wait for processes that are gone.
    """
    distributed: Any = sys.modules.get("torch.distributed")  # not imported, not in a group
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return
    if distributed.get_backend() == "gloo":
        distributed.destroy_process_group()

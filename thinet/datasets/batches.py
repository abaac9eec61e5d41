"""The images that a caller gives: all in one list, on one process or on several."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from thinet.base.errors import ThinetError, first_line
from thinet.base.values import shown


def _iterated(batches: Iterable[Any]) -> Iterable[Any]:
    try:
        return iter(batches)
    except TypeError as error:
        raise ThinetError(
            f"batches={shown(batches)} cannot be iterated over: pass a DataLoader or a list of "
            "image tensors of shape (N, C, H, W)."
        ) from error


def _gather(batches: Iterable[Any]) -> tuple[list[Tensor], Tensor | None]:
    """All images, and their labels if every batch has some."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in _iterated(batches):
        parts = list(batch) if isinstance(batch, (list, tuple)) else [batch]
        if not parts or not isinstance(parts[0], Tensor) or parts[0].dim() != 4:
            raise ThinetError(
                "batches must hold image tensors of shape (N, C, H, W), alone or first in a tuple: "
                "pass a DataLoader or a list of such batches."
            )
        images.extend(parts[0])
        second = parts[1] if len(parts) > 1 else None
        if isinstance(second, Tensor) and second.shape == parts[0].shape[:1]:
            labels.append(second)
    if not images:
        raise ThinetError("batches holds no images: pass at least one batch of (N, C, H, W).")
    odd = next((image for image in images if image.shape != images[0].shape), None)
    if odd is not None:
        raise ThinetError(
            f"images of shape {tuple(images[0].shape)} and {tuple(odd.shape)} are mixed in "
            "batches: pass images of one size."
        )
    found = torch.cat(labels) if labels else None
    return images, found if found is not None and len(found) == len(images) else None


def gathered(batches: Iterable[Any]) -> tuple[list[Tensor], Tensor | None, int, int]:
    """All images and labels of a process that is alone; its rank, and how many there are."""
    return (*_gather(batches), 0, 1)


def shared(batches: Iterable[Any]) -> tuple[list[Tensor], Tensor | None, int, int]:
    """The images and labels of all processes, on every process; its rank, and how many there are.

    Raises:
        ThinetError: If there is no process group, or another process has no images to share.
        Exception: What goes wrong with the images of this one.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        raise ThinetError(
            "distributed=True shares the images of a process group, and there is none: call "
            "torch.distributed.init_process_group first, or leave it out."
        )
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    mine: tuple[Tensor, Tensor | None] | str
    own = None
    try:
        images, labels = _gather(batches)
        mine = torch.stack(images).cpu(), None if labels is None else labels.cpu()
    except Exception as error:  # whatever a data set raises: the others must not wait for this one
        mine, own = first_line(error), error
    found = [mine] * world
    torch.distributed.all_gather_object(found, mine)
    if own is not None:
        raise own
    parts = []
    for process, part in enumerate(found):
        if isinstance(part, str):
            raise ThinetError(f"process {process} has no images to share: {part}.")
        parts.append(part)
    shapes = sorted({tuple(some.shape[1:]) for some, _ in parts})
    if len(shapes) > 1:
        raise ThinetError(
            f"the processes have images of shapes {shapes}: pass images of one size to all."
        )
    known = [classes for _, classes in parts if classes is not None]
    everything = list(torch.cat([some for some, _ in parts]))
    return everything, torch.cat(known) if len(known) == world else None, rank, world

"""Loaders that begin late, leave out what cannot be read, and go on within an epoch."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from thinet.datasets.reading import ImageError
from thinet.datasets.sampler import EpochBatches
from thinet.datasets.unreadable import Unreadable, UnreadableImages

GRACE = 20
"""Seconds that a worker goes on after SIGTERM."""


class EpochLoader(DataLoader[tuple[Tensor, int]]):
    """A DataLoader that begins to work when the first batch is asked for, not by ``iter()``.

    Lightning calls ``iter()`` twice at the start of an epoch, and of a resumed one before it has
    told the sampler which epoch it is. Begun at once, every worker would load its first batch for
    nothing, and the others would wait for it; a resumed epoch would have another one's order.

    Args:
        view: The images.
        unreadable: Where images are noted that are left out of their batch.
        how: See :class:`torch.utils.data.DataLoader`.
    """

    def __init__(self, view: Any, unreadable: UnreadableImages, **how: Any) -> None:
        super().__init__(view, collate_fn=collate_readable, **how)
        self.unreadable = unreadable

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for images, labels, left_out in super().__iter__():
            for path, reason in left_out:
                self.unreadable.note(path, reason)
            yield images, labels


class Resumable:
    """What makes a loader go on within an epoch: Lightning saves and restores it by these methods.

    Attributes:
        done: How many batches of the current epoch have been trained on; batches that the workers
            have prepared meanwhile do not count.
    """

    done: Callable[[], int]
    sampler: Any
    batch_sampler: Any
    batch_size: int | None

    @property
    def order(self) -> Any:
        """What decides on the order: of batches, or of what is put into them."""
        return self.batch_sampler if isinstance(self.batch_sampler, EpochBatches) else self.sampler

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches are done."""
        return {"epoch": self.order.epoch, "batches": self.done()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave out the batches that are done when that epoch is loaded."""
        self.order.resume(state["epoch"], state["batches"] * (self.batch_size or 1))


class TrainLoader(Resumable, EpochLoader):
    """An :class:`EpochLoader` that a checkpoint taken within an epoch can set to its place.

    Args:
        view: The images.
        unreadable: See :class:`EpochLoader`.
        done: See :class:`Resumable`.
        how: See :class:`torch.utils.data.DataLoader`; there is a ``sampler``, an
            :class:`EpochSampler`, or a ``batch_sampler``, :class:`EpochBatches`.
    """

    def __init__(
        self, view: Any, unreadable: UnreadableImages, done: Callable[[], int], **how: Any
    ) -> None:
        super().__init__(view, unreadable, **how)
        self.done = done


def outlive_sigterm(worker: int) -> None:
    """Let a worker go on for a while when its whole group of processes is told to end.

    The main process still needs the batch under way, to stop after it with a checkpoint.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))


def collate_readable(
    items: Sequence[tuple[Tensor, int] | Unreadable],
) -> tuple[Tensor, Tensor, list[Unreadable]]:
    """A batch of the images that could be read, and the others.

    Raises:
        ImageError: If none could be read.
    """
    left_out = [item for item in items if isinstance(item, Unreadable)]
    readable = [item for item in items if not isinstance(item, Unreadable)]
    if not readable:
        raise ImageError(
            f"none of the {len(items)} images of a batch can be read, the first is "
            f"{left_out[0].path} ({left_out[0].reason}): repair the data set, or type a larger "
            "finetune.batch_size and calibration.batch_size."
        )
    images, labels = default_collate(readable)
    return images, labels, left_out

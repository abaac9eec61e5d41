"""Images that are gone through again and again, decoded once if they fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from thinet.datasets.images import ImageView
from thinet.datasets.loader import EpochLoader
from thinet.engine.engine import Engine

MEMORY = 2**31
"""Bytes of decoded images that are kept; more are decoded anew each time."""


class Repeated:
    """Batches of images and labels in a fixed order, without augmentation, on the CPU.

    Args:
        engine: For the shape of images, and how many processes load them.
        view: The images; those that cannot be decoded are left out.
        batch_size: Images a batch.
    """

    def __init__(self, engine: Engine, view: ImageView, batch_size: int) -> None:
        self.count = len(view)
        """How many there are."""
        channels, height, width = engine.data.input_shape
        self._fits = 4 * self.count * channels * height * width <= MEMORY
        workers = engine.data.num_workers
        self._loader = EpochLoader(
            view, engine.data.unreadable, batch_size=batch_size, num_workers=workers
        )
        self._kept: list[tuple[Tensor, Tensor]] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._kept is not None:
            yield from self._kept
            return
        found = []
        for batch in self._loader:
            if self._fits:
                found.append(batch)
            yield batch
        self._kept = found if self._fits else None

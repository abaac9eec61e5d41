"""What a box is told, and how it keeps what it finds."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.on_gpu.results import plain_value
from experiments.timing import Row


@dataclass(frozen=True)
class Context:
    """The surroundings of a box.

    Attributes:
        device: Where networks go.
        smoke: Everything tiny: to see that it runs, not how fast.
        end: When the box has to be done, on ``time.monotonic()``'s clock.
        keep: Takes a row and writes it at once.
        work: A temporary folder of its own.
        weights: Weights of ResNet-56, if given.
        images: Whether CIFAR-10 was given; it is being unpacked beside ``work``.
        known: Rows that an earlier command found: their cells are not measured again.
    """

    device: torch.device
    smoke: bool
    end: float
    keep: Callable[[Row], None]
    work: Path
    weights: Path | None = None
    images: bool = False
    known: tuple[Row, ...] = ()

    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()

    def cell(self, key: Row, task: Callable[[], Row], needs: float = 1.0) -> bool:
        """Keep ``key`` and what ``task`` finds as a row, or why there is nothing.

        A cell that raises is a row with its error, and the next one goes on.

        Args:
            key: What distinguishes the row.
            task: Measures.
            needs: Seconds that it will take, about; it is left out if so many are not left.

        Returns:
            Whether something was measured.
        """
        plain = {name: plain_value(value) for name, value in key.items()}
        for row in self.known:
            if plain.items() <= row.items():
                self.keep(row)
                return False
        if self.left() < needs:
            self.keep({**key, "error": f"left out: {max(self.left(), 0):.0f} s were left"})
            return False
        print(f"{key}: {self.left():.0f} s left", flush=True)
        try:
            found = task()
        except Exception as error:  # whatever fails on a device that was never tried
            self.keep({**key, "error": brief(error)})
            traceback.print_exc()
            traceback.clear_frames(error.__traceback__)  # they hold tensors
            failed = True
        else:
            self.keep({**key, **found})
            failed = False
        if failed and self.device.type == "cuda":
            torch.cuda.empty_cache()
        return not failed


def brief(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]

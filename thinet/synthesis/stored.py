"""A generator on disk: its weights, and the settings that it was made with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from thinet.artifacts.store import dump_state, load_state_, read_state
from thinet.base.errors import ThinetError
from thinet.base.files import read_json, write_bytes_atomic, write_json_atomic
from thinet.base.records import from_json
from thinet.synthesis.generator import Generator
from thinet.synthesis.settings import Drawing

WEIGHTS, MADE = "generator.safetensors", "generator.json"


@dataclass(frozen=True)
class Made:
    """What a generator was made with.

    Attributes:
        shape: ``(C, H, W)`` of its images.
        drawing: Its other settings.
    """

    shape: tuple[int, int, int]
    drawing: Drawing

    def make(self) -> Generator:
        """A new one, with random weights."""
        settings = asdict(self.drawing)
        return Generator(self.shape, **settings)


def save_generator(generator: Generator, drawing: Drawing, folder: Path) -> None:
    """Write a generator; the file of its settings, written last, says that it is complete."""
    write_bytes_atomic(folder / WEIGHTS, dump_state(generator))
    made = Made(generator.shape, drawing)
    write_json_atomic(folder / MADE, {"shape": list(made.shape), "drawing": asdict(drawing)})


def load_generator(folder: Path) -> Generator:
    """Read a generator that :func:`save_generator` wrote.

    Raises:
        ThinetError: If there is none, or it is damaged.
    """
    path = folder / MADE
    try:
        made = from_json(Made, read_json(path))
        generator = made.make()
    except ValueError as error:
        raise ThinetError(
            f"{path} is damaged ({error}): repeat the run with resume=off."
        ) from error
    load_state_(generator, read_state(folder / WEIGHTS), str(folder / WEIGHTS))
    # Weights are read in their usual layout, and the layout has a say in the last bit.
    return generator.to(memory_format=torch.channels_last)

"""What is written down at the end of each epoch: figures, pictures of what is drawn, alarms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from thinet.base.errors import ThinetError
from thinet.base.files import read_json, write_json_atomic
from thinet.base.messages import say
from thinet.base.records import from_json, to_json
from thinet.base.seeding import derive_seed
from thinet.models.classifier import logits_in
from thinet.report.sections.synthesis import EpochRow, save_grid
from thinet.synthesis.alarms import find_alarms, find_collapse
from thinet.synthesis.batchnorm import alone
from thinet.synthesis.generator import Generator
from thinet.synthesis.settings import Synthesis

ROWS = "epochs.json"
SHOWN, COLUMNS = 64, 16
"""Images in a picture, and in each of its rows."""
OF_CLASS = 32
"""Images in the picture of a class."""


@dataclass(frozen=True)
class _Rows:
    rows: tuple[EpochRow, ...]


@dataclass
class Recorder:
    """Watches a training on the process that writes.

    Pictures are drawn from the same noise after each epoch, so that they show how the generator
    changes and depend on nothing but its weights.

    Attributes:
        generator: Draws them.
        teacher: Says which classes they are.
        settings: Of the training.
        seed: What the noise derives from.
        folder: In which an interrupted training finds its rows again.
        pictures: Where the pictures go.
        normalisation: Mean and standard deviation of each channel, to show images.
        classes: How many the teacher knows.
        show: Given the picture of an epoch and the optimizer steps so far; None if nobody looks.
    """

    generator: Generator
    teacher: nn.Module
    settings: Synthesis
    seed: int
    folder: Path
    pictures: Path
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    classes: int
    show: Callable[[Path, int], None] | None = None
    _said: set[str] = field(default_factory=set, init=False)

    def note(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Write down an epoch, from 0, which may have been written down before.

        Raises:
            ThinetError: If the generator has collapsed: what follows would be learnt from nothing.
        """
        images, seen = self._draw()
        row = EpochRow(
            epoch=epoch + 1,
            figures={name: value for name, value in figures.items() if "/" in name},
            classes=tuple(torch.bincount(seen, minlength=self.classes).tolist()),
            spread=float(images.std(0, correction=0).mean()),
        )
        rows = [*self.rows()[:epoch], row]
        write_json_atomic(self.folder / ROWS, to_json(_Rows(tuple(rows))))
        picture = self.pictures / f"epoch_{epoch + 1:03d}.png"
        save_grid(self._shown(images[:SHOWN]), picture, COLUMNS)
        if self.show is not None:
            self.show(picture, int(figures.get("step", epoch + 1)))
        if collapse := find_collapse(rows, self.settings):
            raise ThinetError(collapse)
        ended = epoch + 1 == self.settings.course.epochs
        if ended:
            self._save_classes(images, seen)
        for sentence in find_alarms(rows, self.settings, ended):
            if (kind := sentence.partition(":")[2]) not in self._said:  # what to do, said once
                self._said.add(kind)
                say(f"alarm: {sentence}")

    def rows(self) -> list[EpochRow]:
        """What was written down so far."""
        path = self.folder / ROWS
        if not path.exists():
            return []
        try:
            return list(from_json(_Rows, read_json(path)).rows)
        except ValueError as error:
            raise ThinetError(
                f"{path} is damaged ({error}): repeat the run with resume=off."
            ) from error

    @torch.no_grad()
    def _draw(self) -> tuple[Tensor, Tensor]:
        """Images ``(N, C, H, W)`` on the CPU, and the class ``(N,)`` that the teacher sees."""
        random = torch.Generator().manual_seed(derive_seed(self.seed, "pictures"))
        count = max(self.settings.course.batch_size, SHOWN)
        noise = torch.randn(count, self.generator.latent, generator=random)
        with alone(self.generator):
            images = self.generator(noise.to(self.generator.device))
            seen = logits_in(self.teacher(images)).argmax(1)
        return images.float().cpu(), seen.cpu()

    def _save_classes(self, images: Tensor, seen: Tensor) -> None:
        for number in seen.unique().tolist()[:100]:
            own = images[seen == number][:OF_CLASS]
            save_grid(self._shown(own), self.pictures / f"class_{number}.png", COLUMNS)

    def _shown(self, images: Tensor) -> Tensor:
        """As people see them: ``(N, H, W, C)``, uint8."""
        mean, deviation = (torch.tensor(one)[:, None, None] for one in self.normalisation)
        pixels = (images * deviation + mean).clamp(0, 1).mul(255).round()
        return pixels.to(torch.uint8).permute(0, 2, 3, 1)

"""What ``sampler`` says: how training images are put into batches."""

from __future__ import annotations

from dataclasses import dataclass

from thinet.datasets.sampler import MakeBatches
from thinet.engine.distilled import Pupil
from thinet.engine.engine import Engine
from thinet.run.settings import Settings
from thinet.run.setup import Setup

UNIFORM = "uniform"


@dataclass(frozen=True)
class Batches:
    """How training images are put into batches.

    Attributes:
        sampler: ``uniform``, ``class_uniform`` or ``superclass_uniform``.
    """

    sampler: str = UNIFORM

    @classmethod
    def read(cls, settings: Settings) -> Batches:
        """From ``sampler``."""
        return cls(settings["sampler.name"])

    @property
    def is_usual(self) -> bool:
        """Whether images are shuffled, and nothing else."""
        return self.sampler == UNIFORM

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher's features say which images belong together."""
        return self.sampler == "superclass_uniform"

    def make(
        self, setup: Setup, engine: Engine, teacher: Pupil | None = None
    ) -> MakeBatches | None:
        """What makes the batches of an epoch; None shuffles the images."""
        return None

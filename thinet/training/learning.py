"""How the networks of a run are trained: by labels alone or by a teacher too, in which batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from thinet.base.errors import ThinetError
from thinet.base.messages import say
from thinet.base.seeding import derive_seed
from thinet.datasets.sampler import MakeBatches
from thinet.engine.distilled import Distilled, Pupil
from thinet.engine.engine import Engine
from thinet.engine.lesson import Lesson
from thinet.engine.objective import Objective, Supervised
from thinet.engine.phases import Phase
from thinet.engine.settings import Accuracy, Training
from thinet.models.features import Feature, find_feature
from thinet.training.teacher import Renormalised


@dataclass(frozen=True, eq=False)
class Learning:
    """How the networks of a run are trained.

    Attributes:
        lesson: What they learn from a teacher; None for labels alone.
        teacher: Whom from; it is never changed.
        batches: How training images are put into batches; None shuffles them.
    """

    lesson: Lesson | None = None
    teacher: Pupil | None = None
    batches: MakeBatches | None = None

    def fit(
        self,
        engine: Engine,
        network: nn.Module,
        phases: Sequence[Phase],
        training: Training,
        key: str,
        folder: Path,
        title: str | None = None,
    ) -> Accuracy:
        """Train a network in place; see :meth:`thinet.engine.engine.Engine.train`."""
        objective = self.objective(engine, network, phases, training, key)
        return engine.train(objective, key, folder, self.batches, title)

    def objective(
        self,
        engine: Engine,
        network: nn.Module,
        phases: Sequence[Phase],
        training: Training,
        key: str,
    ) -> Objective:
        """What training changes, and towards what."""
        if self.lesson is None or self.teacher is None:
            return Supervised(network, phases, training)
        lesson = self.lesson
        student = pupil(network, engine, lesson)
        feature, projection = student.feature, None
        if lesson.project is not None and feature is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(engine.seed, key, "projection"))
                projection = nn.Linear(feature.length, lesson.project, device="cpu")
        return Distilled(student, self.teacher, lesson, phases, training, projection)


def pupil(network: nn.Module, engine: Engine, lesson: Lesson, named: bool = True) -> Pupil:
    """A network and its feature.

    Args:
        network: Student or teacher.
        engine: Its images are examples.
        lesson: Soft targets alone do without features.
        named: Whether the network has to have the module that the lesson names.
    """
    images = engine.data.examples()
    first = next(network.parameters(), None)
    if first is not None:
        images = images.to(first.device)
    return Pupil(network, _feature(network, images, lesson, named))


def _feature(
    network: nn.Module, images: torch.Tensor, lesson: Lesson, named: bool
) -> Feature | None:
    name = lesson.feature
    if name is not None and not named:
        inner = f"network.{name}" if isinstance(network, Renormalised) else name
        name = inner if inner in dict(network.named_modules()) else None
    try:
        return find_feature(network, images, name)
    except ThinetError as error:
        if lesson.beta or lesson.feature is not None:
            raise
        say(f"soft targets alone are learnt, and no features watched: {error}")
        return None

"""What ``distill``, ``sampler`` and ``teacher`` say, and how training comes of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thinet.base.errors import ThinetError
from thinet.base.messages import say
from thinet.engine.engine import Engine
from thinet.engine.lesson import Lesson
from thinet.models.features import embedded, find_feature
from thinet.report.sections.distillation import KEY, DistillationDetails, Terms
from thinet.run.result import Measurement
from thinet.run.session import Session
from thinet.run.settings import Settings, fill
from thinet.run.setup import Setup
from thinet.run.steps import BASELINE
from thinet.surgery import evaluating
from thinet.training.batches import Batches
from thinet.training.learning import Learning, pupil
from thinet.training.source import on_paper
from thinet.training.start import restore
from thinet.training.teacher import fitting_teacher, like, prepare_teacher

READS = ("distill", "sampler", "teacher")
"""What a method names among its ``reads`` to train by it."""


@dataclass(frozen=True)
class Distilling:
    """What is learnt besides labels, and in which batches.

    Attributes:
        lesson: What is learnt from a teacher; None for labels alone.
        batches: How training images are put into batches.
    """

    lesson: Lesson | None
    batches: Batches

    @classmethod
    def read(cls, settings: Settings) -> Distilling:
        """From ``distill`` and ``sampler``."""
        name = settings["distill.name"]
        given = settings.without("distill", "name")
        lesson = None if name == "none" else fill(Lesson, given, "distill")
        return cls(lesson, Batches.read(settings))

    @property
    def needs_teacher(self) -> bool:
        """Whether there has to be one."""
        return self.lesson is not None or self.batches.needs_teacher

    @property
    def is_usual(self) -> bool:
        """Whether networks are trained by labels alone, on shuffled images."""
        return self.lesson is None and self.batches.is_usual

    def details(
        self, setup: Setup, epochs: int | None = None, alone: Measurement | None = None
    ) -> dict[str, object]:
        """What a result says of it, if there is anything to say.

        Args:
            setup: Of the run.
            epochs: That the student was trained for.
            alone: Figures of the same student, taught by labels alone.
        """
        if self.lesson is None:
            return {}
        whom = "" if setup.teacher is None else setup.teacher.name
        return {
            KEY: DistillationDetails(
                teacher=whom,
                student=setup.source.name,
                sampler=self.batches.sampler,
                terms=Terms(**{one.name: getattr(self.lesson, one.name) for one in fields(Terms)}),
                epochs=epochs,
                alone=alone,
            )
        }

    def check(self, setup: Setup, own: bool = False, labels: bool = True) -> None:
        """Try on paper, before any long work, what can be tried: no data, no training.

        Args:
            setup: Of the run.
            own: Whether the network that the run begins with is the teacher if none is named.
            labels: Whether images have any; without them soft targets are learnt alone.

        Raises:
            ThinetError: In one sentence, if it cannot be done.
        """
        self.batches.check(setup)
        if not self.needs_teacher:
            return
        student, images = on_paper(setup)
        itself = own and setup.teacher is None
        teacher = student if itself else fitting_teacher(setup, images)
        lesson = self.lesson or Lesson()
        if lesson.beta or lesson.feature is not None or self.batches.needs_teacher:
            _find(student, images, lesson.feature, learnt=True)
            name = lesson.feature if lesson.feature in dict(teacher.named_modules()) else None
            _find(teacher, like(teacher, images), name)
        self.show(setup, labels)

    def begin(
        self, setup: Setup, engine: Engine, folder: Path, teacher: nn.Module | None = None
    ) -> Learning:
        """What trains the networks of a run; the teacher is trained first if it has to be.

        Args:
            setup: Of the run.
            engine: Of the run.
            folder: Of the run.
            teacher: Whom to learn from, if it is at hand already.
        """
        if not self.needs_teacher:
            return Learning(batches=self.batches.make(setup, engine))
        if teacher is None:
            teacher = prepare_teacher(setup, engine, folder)
        lesson = self.lesson or Lesson()
        taught = pupil(teacher.cpu(), engine, lesson, named=False)
        batches = self.batches.make(setup, engine, taught)
        return Learning(self.lesson, taught if self.lesson is not None else None, batches)

    def begin_after(self, session: Session[Any]) -> Learning:
        """As :meth:`begin`; with nobody else named, the baseline teaches, which the run keeps."""
        setup, teacher = session.setup, None
        if self.teaches_itself(setup):
            teacher = restore(session, session.folder / BASELINE)
        return self.begin(setup, session.engine, session.folder, teacher)

    def teaches_itself(self, setup: Setup) -> bool:
        """Whether the network that the run begins with is the teacher, if a method lets it be."""
        return self.needs_teacher and setup.teacher is None

    def show(self, setup: Setup, labels: bool = True) -> None:
        """Say whom from and what is learnt."""
        if self.lesson is None:
            return
        whom = (
            "the network that the run begins with" if setup.teacher is None else setup.teacher.name
        )
        terms = f"{self.lesson.alpha:g} cross-entropy + {1 - self.lesson.alpha:g} soft targets"
        terms = terms if labels else "soft targets alone, since drawn images have no labels"
        if self.lesson.beta:
            terms += f" + {self.lesson.beta:g} correlation congruence ({self.lesson.kernel})"
        say(f"teacher: {whom}; the loss is {terms}")


def _find(network: nn.Module, images: torch.Tensor, name: str | None, learnt: bool = False) -> None:
    """Whether the features can be read; where that takes numbers it is found out later.

    Raises:
        ThinetError: If they cannot be; or, if they are to be learnt, no parameter makes them.
    """
    with suppress(NotImplementedError), evaluating(network):
        feature = find_feature(network, images, name)
        if learnt and not embedded(network, feature, images)[1].requires_grad:
            raise ThinetError(
                f"distill.feature={feature.module} reads what no weights of the student have made, "
                "so nothing can be learnt there: name a later module, or type distill.feature=null."
            )

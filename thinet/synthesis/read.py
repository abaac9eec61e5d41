"""What ``synthesis`` says, as typed objects."""

from __future__ import annotations

from dataclasses import dataclass

from thinet.engine.phases import Phase
from thinet.run.settings import Settings, fill
from thinet.synthesis.settings import PARTS, Synthesis
from thinet.synthesis.updates import GENERATOR, Turn

GROUP = "synthesis"
STUDENT = "student"


@dataclass(frozen=True)
class Recipe:
    """Images and learning from them, and how both networks are trained.

    Attributes:
        settings: Of images and losses.
        generator: How the generator is trained.
        student: How the student is.
    """

    settings: Synthesis
    generator: Turn
    student: Turn

    @classmethod
    def read(cls, settings: Settings) -> Recipe:
        """From ``synthesis``."""
        parts = {
            name: fill(kind, settings[f"{GROUP}.{name}"], f"{GROUP}.{name}")
            for name, kind in PARTS.items()
        }
        found = Synthesis(**parts)

        def turn(name: str, times: int) -> Turn:
            given = settings.without(f"{GROUP}.{name}", "optimizer", "clip_norm")
            place = f"{GROUP}.{name}"
            phase = fill(Phase, {**given, "epochs": found.course.epochs}, place)
            return Turn(phase, settings.training(place), times)

        return cls(
            found,
            turn(GENERATOR, found.course.generator_steps),
            turn(STUDENT, found.course.student_steps),
        )

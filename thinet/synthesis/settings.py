"""Settings of drawing images and of learning from them, read before torch is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from thinet.base.errors import SettingError, ThinetError
from thinet.base.values import check_whole, is_number, shown

TOGETHER, GENERATOR_FIRST = "together", "generator_first"
MODES = (TOGETHER, GENERATOR_FIRST)
KL, L1 = "kl", "l1"
LESSONS = (KL, L1)
REDUCTIONS = ("mean", "sum")
CHEAP = ("one_hot", "activation", "entropy")
"""Terms that are watched where they have no weight."""


@dataclass(frozen=True)
class Losses:
    """Weights of what images are drawn for, and what is learnt from them.

    Weights hold for the reductions and the base that stand beside them, see
    :mod:`thinet.losses.data_free`.

    Attributes:
        one_hot: How sure the teacher is of an image.
        activation: How large its features are.
        entropy: How equally frequent its classes are in a batch.
        batchnorm: How near the statistics of its BatchNorm layers are.
        adversarial: How far the student's logits are from the teacher's (DFAD).
        base: Of the logarithm of ``entropy``; 2.718281828 for natural ones.
        entropy_reduction: ``sum`` over classes (the authors' code) or ``mean`` (the formula).
        activation_reduction: ``mean`` over features (the authors' code) or ``sum`` (the formula).
        learn: What the student minimises: ``kl`` of soft targets, or ``l1`` of logits (DFAD).
        temperature: Of the soft targets.
        feature: Module of the teacher whose input is the feature; None finds the classifier.
    """

    one_hot: float = 1.0
    activation: float = 0.1
    entropy: float = 5.0
    batchnorm: float = 0.0
    adversarial: float = 0.0
    base: float = 10.0
    entropy_reduction: str = "sum"
    activation_reduction: str = "mean"
    learn: str = KL
    temperature: float = 1.0
    feature: str | None = None

    def __post_init__(self) -> None:
        for name in (*CHEAP, "batchnorm", "adversarial"):
            _check_number(self, name, 0, 1e6, "1.0")
        _check_number(self, "temperature", 0.01, 1000, "4.0")
        if not is_number(self.base) or not 1.01 <= self.base <= 1e6:
            raise SettingError(f"base={shown(self.base)} is not a number above 1", "base", "10.0")
        _check_choice(self, "learn", LESSONS)
        for name in ("entropy_reduction", "activation_reduction"):
            _check_choice(self, name, REDUCTIONS)
        if self.feature is not None and (not isinstance(self.feature, str) or not self.feature):
            raise SettingError(
                f"feature={shown(self.feature)} is not the name of a module", "feature", "fc1"
            )
        if not self.weights:
            raise SettingError("all losses have weight 0, so nothing is drawn", "one_hot", "1.0")

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms that count."""
        names = (*CHEAP, "batchnorm", "adversarial")
        return {name: float(getattr(self, name)) for name in names if getattr(self, name)}


@dataclass(frozen=True)
class Drawing:
    """The generator.

    Attributes:
        latent: Numbers an image is drawn from.
        width: Of its first maps; 128 in the paper.
        colours: 1 for grey images, repeated to all channels; None draws every channel.
        eps: Of its BatchNorms.
    """

    latent: int = 100
    width: int = 128
    colours: int | None = None
    eps: float = 0.8

    def __post_init__(self) -> None:
        check_whole(self, "latent", 1, "100")
        check_whole(self, "width", 2, "128")
        if self.colours not in (None, 1, 3):
            raise SettingError(
                f"colours={shown(self.colours)} is neither 1 nor 3 nor null", "colours", "1"
            )
        _check_number(self, "eps", 1e-8, 100, "0.8")


@dataclass(frozen=True)
class Memory:
    """What else than this moment's images a student learns from, so that it forgets nothing.

    Attributes:
        average: Decay of an exponential average of the generator, which draws images too; None for
            none.
        pool: Earlier images that are kept, and learnt from again; 0 for none.
        share: Of the student's images that come from these.
    """

    average: float | None = None
    pool: int = 0
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.average is not None and (not is_number(self.average) or not 0 < self.average < 1):
            raise SettingError(
                f"average={shown(self.average)} is not between 0 and 1", "average", "0.99"
            )
        check_whole(self, "pool", 0, "4096")
        if not is_number(self.share) or not 0 < self.share < 1:
            raise SettingError(f"share={shown(self.share)} is not between 0 and 1", "share", "0.5")


@dataclass(frozen=True)
class Course:
    """How long, and who in which turn.

    Attributes:
        mode: ``together``: generator and student in turn; ``generator_first``: the generator to
            its end, then the student from what it draws.
        epochs: How many; each ends with a checkpoint, a row of figures and a picture.
        iterations: Of each epoch.
        batch_size: Images an iteration, over all devices together.
        generator_steps: Of each iteration, each with images of its own.
        student_steps: Of each iteration; the first on the generator's last images.
    """

    mode: str = TOGETHER
    epochs: int = 10
    iterations: int = 60
    batch_size: int = 256
    generator_steps: int = 1
    student_steps: int = 1

    def __post_init__(self) -> None:
        _check_choice(self, "mode", MODES)
        for name, example in (
            ("epochs", "10"), ("iterations", "60"), ("generator_steps", "1"), ("student_steps", "1")
        ):  # fmt: skip
            check_whole(self, name, 1, example)
        check_whole(self, "batch_size", 2, "256")


@dataclass(frozen=True)
class Synthesis:
    """All of it.

    Attributes:
        course: How long, and in which turn.
        drawing: The generator.
        losses: What is drawn for, and learnt.
        memory: What else is learnt from.

    Raises:
        ThinetError: If the parts do not fit together.
    """

    course: Course = field(default_factory=Course)
    drawing: Drawing = field(default_factory=Drawing)
    losses: Losses = field(default_factory=Losses)
    memory: Memory = field(default_factory=Memory)

    def __post_init__(self) -> None:
        if self.course.mode == GENERATOR_FIRST and self.losses.adversarial:
            raise ThinetError(
                "synthesis.losses.adversarial looks at the student, which comes later: type "
                f"synthesis.course.mode={TOGETHER}, or synthesis.losses.adversarial=0."
            )
        if self.course.mode == GENERATOR_FIRST and (self.memory.average or self.memory.pool):
            raise ThinetError(
                "synthesis.memory is for a generator that changes while the student learns: type "
                f"synthesis.course.mode={TOGETHER}, or synthesis.memory.average=null "
                "synthesis.memory.pool=0."
            )


PARTS: dict[str, Callable[..., Any]] = {
    "course": Course, "drawing": Drawing, "losses": Losses, "memory": Memory
}  # fmt: skip
"""The kinds of the parts of :class:`Synthesis`: each is filled from ``synthesis.<name>``."""


def _check_number(settings: Any, name: str, least: float, most: float, example: str) -> None:
    value = getattr(settings, name)
    if not is_number(value) or not least <= value <= most:
        raise SettingError(
            f"{name}={shown(value)} is not a number from {least:g} to {most:g}", name, example
        )


def _check_choice(settings: Any, name: str, choice: tuple[str, ...]) -> None:
    value = getattr(settings, name)
    if value not in choice:
        raise SettingError(f"{name}={shown(value)} is none of {', '.join(choice)}", name, choice[0])

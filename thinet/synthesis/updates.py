"""The updates of a training without data: of a generator, and of a student on what it draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from thinet.datasets.steps import Step
from thinet.engine.distilled import AGREEMENT, SOFT_TARGETS
from thinet.engine.objective import LOSS, Update
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.losses import discrepancy, soft_targets
from thinet.models.classifier import logits_in
from thinet.synthesis.critic import Critic
from thinet.synthesis.generator import Generator
from thinet.synthesis.noise import Noise
from thinet.synthesis.settings import CHEAP, KL, Losses

GENERATOR = "generator"
"""Name of the generator's update and of the part of the objective."""
DISCREPANCY = "discrepancy"


@dataclass(frozen=True)
class Turn:
    """How one of the two networks is trained.

    Attributes:
        phase: How long and at which rate.
        training: Its optimizer.
        times: Steps of each iteration.
    """

    phase: Phase
    training: Training
    times: int = 1


@dataclass(eq=False)
class Batches:
    """The images of an iteration, as a generator draws them.

    Attributes:
        generator: Draws them.
        noise: From what.
    """

    generator: Generator
    noise: Noise
    _place: tuple[int, int] = field(default=(-1, -1), init=False)
    _draws: int = field(default=0, init=False)
    _last: tuple[Tensor, Tensor] | None = field(default=None, init=False)

    def fresh(self, step: Step) -> Tensor:
        """New images ``(n, C, H, W)``, with gradient to the generator if it is recorded."""
        if self._place != (step.epoch, step.number):
            self._place, self._draws, self._last = (step.epoch, step.number), 0, None
        noise = self.noise.draw(step, self._draws, self.generator.latent)
        self._draws += 1
        images: Tensor = self.generator(noise.to(self.generator.device))
        return images

    @property
    def draws(self) -> int:
        """How often new images were drawn in this step so far."""
        return self._draws

    def keep(self, images: Tensor, logits: Tensor) -> None:
        """For whoever learns from the images that the generator has just been trained with."""
        self._last = images.detach(), logits.detach()

    def kept(self, step: Step) -> tuple[Tensor, Tensor] | None:
        """Images and the teacher's logits that were kept in this step; only once."""
        found, self._last = self._last, None
        return found if self._place == (step.epoch, step.number) else None


def generator_update(
    critic: Critic, batches: Batches, turn: Turn, student: nn.Module | None = None
) -> Update:
    """Train a generator towards what a critic asks for.

    Args:
        critic: Judges images.
        batches: Drawn by the generator.
        turn: How it is trained.
        student: Whom the adversarial term looks at.
    """
    weights = critic.losses.weights

    def loss(step: Step) -> dict[str, Tensor]:
        images = batches.fresh(step)
        logits, terms = critic.judge(images)
        if student is not None and "adversarial" in weights:
            terms["adversarial"] = -discrepancy(logits, logits_in(student(images)))
        batches.keep(images, logits)
        return terms

    watched = tuple(name for name in CHEAP if name not in weights)
    return Update(
        (batches.generator,), loss, weights, [turn.phase], turn.training, GENERATOR, watched,
        turn.times,
    )  # fmt: skip


def student_update(
    student: nn.Module,
    phases: Sequence[Phase],
    training: Training,
    losses: Losses,
    images_of: Callable[[Step], tuple[Tensor, Tensor]],
    times: int = 1,
) -> Update:
    """Teach a student what a teacher says of images without labels.

    Args:
        student: What is trained.
        phases: The course of the learning rate.
        training: Its optimizer.
        losses: What is learnt.
        images_of: Images and the teacher's logits of a step, without gradient.
        times: Steps of each iteration.
    """
    term = SOFT_TARGETS if losses.learn == KL else DISCREPANCY

    def loss(step: Step) -> dict[str, Tensor]:
        images, taught = images_of(step)
        logits = logits_in(student(images))
        found = (
            soft_targets(logits, taught, losses.temperature)
            if losses.learn == KL
            else discrepancy(taught, logits)
        )
        agreement = (logits.argmax(1) == taught.argmax(1)).float().mean()
        return {term: found, AGREEMENT: agreement}

    return Update((student,), loss, {term: 1.0}, phases, training, LOSS, (AGREEMENT,), times)

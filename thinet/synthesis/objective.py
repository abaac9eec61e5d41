"""Training without data: of a generator against a network, of a student on what it draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from thinet.datasets.steps import Step
from thinet.engine.objective import Objective, Update
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.models.classifier import logits_in
from thinet.synthesis.critic import Critic
from thinet.synthesis.memory import ImagePool
from thinet.synthesis.settings import Losses
from thinet.synthesis.updates import GENERATOR, Batches, Turn, generator_update, student_update

MEMORIES = 1 << 20
"""Numbers of draws that memories take, far from those of the batches."""

AfterEpoch = Callable[[int, Mapping[str, float]], None]
"""Called at the end of an epoch, on every process, with its number and its mean figures."""


@dataclass(frozen=True, eq=False)
class Imagining(Objective):
    """A generator alone, trained against a network.

    Attributes:
        critic: Judges its images.
        batches: Drawn by it.
        turn: How it is trained.
        watch: See :data:`AfterEpoch`.
    """

    critic: Critic
    batches: Batches
    turn: Turn
    watch: AfterEpoch | None = None
    smaller = "synthesis.generator.lr=1e-3"

    @property
    def network(self) -> nn.Module:  # type: ignore[override]
        """The generator: nothing is classified by it."""
        return self.batches.generator

    @property
    def updates(self) -> Sequence[Update]:
        """That of the generator."""
        return (generator_update(self.critic, self.batches, self.turn),)

    @property
    def frozen(self) -> Sequence[nn.Module]:
        """The network that judges."""
        return (self.critic.network,)

    def after_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Tell who watches."""
        if self.watch is not None:
            self.watch(epoch, figures)


@dataclass(frozen=True, eq=False)
class Unlabelled(Objective):
    """A student that learns from images without labels, drawn by whom is not trained.

    Attributes:
        network: The student.
        teacher: Whose answers it learns.
        draw: The images of a step, on the teacher's device.
        phases: The course of the learning rate.
        training: Its optimizer.
        losses: What is learnt.
        drawer: The generator behind ``draw``, if there is one.
        watch: See :data:`AfterEpoch`.
        smaller: See :class:`thinet.engine.objective.Objective`.
    """

    network: nn.Module
    teacher: nn.Module
    draw: Callable[[Step], Tensor]
    phases: Sequence[Phase]
    training: Training
    losses: Losses
    drawer: nn.Module | None = None
    watch: AfterEpoch | None = None
    smaller: str = "synthesis.student.lr=1e-3"

    @property
    def updates(self) -> Sequence[Update]:
        """That of the student."""
        own = self.phases, self.training, self.losses
        return (student_update(self.network, *own, self._images),)

    @property
    def frozen(self) -> Sequence[nn.Module]:
        """The teacher and the generator."""
        return (self.teacher,) if self.drawer is None else (self.teacher, self.drawer)

    def after_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Tell who watches."""
        if self.watch is not None:
            self.watch(epoch, figures)

    @torch.no_grad()
    def _images(self, step: Step) -> tuple[Tensor, Tensor]:
        images = self.draw(step)
        return images, logits_in(self.teacher(images))


@dataclass(frozen=True, eq=False)
class DataFree(Objective):
    """A generator and a student in turn, both on the same images.

    Source: Chen et al. 2019 (DAFL); with ``adversarial`` and ``l1`` that of Fang et al. 2019.

    Attributes:
        network: The student.
        critic: Judges images.
        batches: Drawn by the generator.
        turns: How the generator and the student are trained.
        average: Of the generator, which draws for the student too.
        pool: Earlier images for the student.
        share: Of the student's images that come from these.
        watch: See :data:`AfterEpoch`.
    """

    network: nn.Module
    critic: Critic
    batches: Batches
    turns: tuple[Turn, Turn]
    average: AveragedModel | None = None
    pool: ImagePool | None = None
    share: float = 0.5
    watch: AfterEpoch | None = None
    smaller = "synthesis.generator.lr=1e-3 synthesis.student.lr=1e-3"

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The generator, and what keeps its past."""
        found = {GENERATOR: self.batches.generator, "average": self.average, "pool": self.pool}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def frozen(self) -> Sequence[nn.Module]:
        """The teacher."""
        return (self.critic.network,)

    @property
    def updates(self) -> Sequence[Update]:
        """First the generator's, then the student's."""
        first, second = self.turns
        losses = self.critic.losses
        return (
            generator_update(self.critic, self.batches, first, self.network),
            student_update(
                self.network, [second.phase], second.training, losses, self._images, second.times
            ),
        )

    def after_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Tell who watches."""
        if self.watch is not None:
            self.watch(epoch, figures)

    @torch.no_grad()
    def _images(self, step: Step) -> tuple[Tensor, Tensor]:
        """The generator's own images, or new ones; some replaced by those of the past."""
        kept = self.batches.kept(step)
        if kept is not None and self.average is not None:
            self.average.update_parameters(self.batches.generator)
        images, logits = kept or self._answered(self.batches.fresh(step))
        rest, past = self._past(step)
        if self.pool is not None and kept is not None:
            self.pool.put(images)
        if not len(past):
            return images, logits
        old, theirs = self._answered(past)
        return torch.cat([images[rest], old]), torch.cat([logits[rest], theirs])

    def _past(self, step: Step) -> tuple[Tensor, Tensor]:
        """Places of a batch that stay as they are, and images of the past for the others."""
        sources = self._memories(step)
        rest, *parts = self.batches.noise.deal(self.share if sources else 0.0, len(sources))
        drawn = [draw()[rows] for draw, rows in zip(sources, parts, strict=True)]
        return rest, torch.cat(drawn) if drawn else torch.empty(0)

    def _memories(self, step: Step) -> list[Callable[[], Tensor]]:
        noise, found = self.batches.noise, list[Callable[[], Tensor]]()
        number = MEMORIES + 2 * self.batches.draws  # another one in each of the student's turns
        if self.average is not None:
            average, device = self.average, self.batches.generator.device
            rows = noise.draw(step, number, self.batches.generator.latent)
            found.append(lambda: average(rows.to(device)))
        if self.pool is not None and self.pool.filled:
            pool, places = self.pool, noise.places(step, number + 1)
            found.append(lambda: pool.take(places))
        return found

    def _answered(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, logits_in(self.critic.network(images))

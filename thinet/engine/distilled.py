"""Training by labels and by a teacher: soft targets, and how the images of a batch correlate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thinet.engine.gathering import everyones
from thinet.engine.lesson import Lesson
from thinet.engine.objective import Objective, Update
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.losses import correlation_congruence, soft_targets
from thinet.models.classifier import logits_in
from thinet.models.features import Feature, embedded

CROSS_ENTROPY, SOFT_TARGETS, CORRELATION = "cross_entropy", "soft_targets", "correlation"
AGREEMENT = "agreement"
"""Share of the images that student and teacher put into the same class."""
SHARE = "gradient_share_"
"""In front of a term: the norm of its weighted gradient at the features over the sum of all."""


@dataclass(frozen=True, eq=False)
class Pupil:
    """A network, and where its features are read.

    Attributes:
        network: Images ``(N, C, H, W)`` to logits.
        feature: The input of its classifier; None if nothing is to be read.
    """

    network: nn.Module
    feature: Feature | None

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits ``(N, K)``, and features ``(N, d)`` if they are read."""
        if self.feature is None:
            return logits_in(self.network(images)), None
        return embedded(self.network, self.feature, images)


@dataclass(frozen=True, eq=False)
class Distilled(Objective):
    """Cross-entropy of the labels, and what a teacher says of the same augmented images.

    Under DDP the features of all processes are gathered: the batch of the correlation is the whole
    one, and the gradient that of a single process.

    Attributes:
        student: What is trained.
        teacher: In ``eval()`` mode, without gradients, in no checkpoint.
        lesson: The terms of the loss.
        phases: The course of the learning rate.
        training: Its optimizer and the smoothing of the labels.
        projection: Of the student's features alone: were the teacher's projected by a layer that
            is trained as well, mapping everything to one point would satisfy the loss.
    """

    student: Pupil
    teacher: Pupil
    lesson: Lesson
    phases: Sequence[Phase]
    training: Training
    projection: nn.Module | None = None

    @property
    def network(self) -> nn.Module:  # type: ignore[override]
        """The student."""
        return self.student.network

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The projection, if there is one."""
        return {} if self.projection is None else {"projection": self.projection}

    @property
    def frozen(self) -> Sequence[nn.Module]:
        """The teacher."""
        return (self.teacher.network,)

    @property
    def weights(self) -> dict[str, float]:
        """Of each term."""
        lesson = self.lesson
        found = {CROSS_ENTROPY: float(lesson.alpha), SOFT_TARGETS: 1 - float(lesson.alpha)}
        return found | ({CORRELATION: float(lesson.beta)} if lesson.beta else {})

    @property
    def updates(self) -> tuple[Update, ...]:
        """The one update."""
        watched = [AGREEMENT]
        if self._correlates:
            watched += [] if self.lesson.beta else [CORRELATION]
        if self._shares:
            watched += [f"{SHARE}{name}" for name in self.weights]
        modules = (self.network, *self.parts.values())
        return (
            Update(
                modules, self._loss, self.weights, self.phases, self.training,
                watched=tuple(watched),
            ),
        )  # fmt: skip

    @property
    def _correlates(self) -> bool:
        return self.student.feature is not None and self.teacher.feature is not None

    @property
    def _shares(self) -> bool:
        """Gradients of all terms meet where one feature an image goes into a linear layer."""
        feature = self.student.feature
        if feature is None or feature.pooled:
            return False
        return isinstance(self.network.get_submodule(feature.module), nn.Linear)

    def _loss(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, labels = batch
        # First the teacher: while it computes, the student's activations need no memory yet.
        taught, theirs = self._teach(images)
        logits, own = self.student.answer(images)
        smoothing = self.training.label_smoothing
        found = {
            CROSS_ENTROPY: F.cross_entropy(logits, labels, label_smoothing=smoothing),
            SOFT_TARGETS: soft_targets(logits, taught, self.lesson.temperature),
            AGREEMENT: (logits.argmax(1) == taught.argmax(1)).float().mean(),
        }
        if own is not None and theirs is not None:
            found[CORRELATION] = self._correlation(own, theirs)
        if own is not None and self._shares:
            found |= self._gradient_shares(found, own)
        if not self.lesson.beta and CORRELATION in found:
            found[CORRELATION] = found[CORRELATION].detach()
        return found

    @torch.no_grad()
    def _teach(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The teacher's answer, in its own precision."""
        kind, wanted = images.device.type, self.lesson.precision
        half = wanted == "bf16" or (wanted == "auto" and kind == "cuda")
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=half):
            return self.teacher.answer(images)

    def _correlation(self, own: Tensor, theirs: Tensor) -> Tensor:
        lesson = self.lesson
        if self.projection is not None:
            own = self.projection(own)
        return correlation_congruence(
            everyones(own), everyones(theirs),
            lesson.kernel, lesson.gamma, lesson.order, lesson.normalize,
        )  # fmt: skip

    def _gradient_shares(self, terms: Mapping[str, Tensor], features: Tensor) -> dict[str, Tensor]:
        """Only the classifier lies between terms and features, so this costs next to nothing."""
        norms = {}
        for name, weight in self.weights.items():
            (gradient,) = torch.autograd.grad(weight * terms[name], features, retain_graph=True)
            norms[name] = gradient.detach().float().norm()
        total = torch.stack(list(norms.values())).sum().clamp_min(1e-30)
        return {f"{SHARE}{name}": norm / total for name, norm in norms.items()}

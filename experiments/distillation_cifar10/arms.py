"""The arms of the study: what a network learns from, in which batches, and one training of it."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from experiments.cifar import BATCH, OPTIMIZER, Data, Images, make_engine
from thinet.artifacts.store import dump_state
from thinet.datasets.class_sampler import ClassUniform, SuperclassUniform
from thinet.datasets.sampler import MakeBatches
from thinet.datasets.sampler_checks import cluster_count
from thinet.engine.distilled import (
    AGREEMENT,
    CORRELATION,
    CROSS_ENTROPY,
    SHARE,
    SOFT_TARGETS,
    Pupil,
)
from thinet.engine.lesson import Lesson
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.losses import correlation_congruence
from thinet.models.features import embedded, find_feature
from thinet.training.learning import Learning
from thinet.training.superclasses import superclasses

UNIFORM, CLASSES, SUPERCLASSES = "uniform", "class_uniform", "superclass_uniform"
TERMS = (CROSS_ENTROPY, SOFT_TARGETS, CORRELATION)
WORKERS = 2
"""Processes that load images for each process of the study on a GPU."""
WATCHED = 1_000
"""Validation images that the engine looks at after each epoch; all of them count at the end."""


@dataclass(frozen=True)
class Arm:
    """What a network learns from, and in which batches.

    Attributes:
        lesson: None for labels alone.
        sampler: Of the training images.
    """

    lesson: Lesson | None = None
    sampler: str = UNIFORM

    @property
    def beta(self) -> float:
        """Weight of the correlation congruence."""
        return 0.0 if self.lesson is None else self.lesson.beta


@dataclass(frozen=True)
class Course:
    """How long and how fast a network learns.

    Attributes:
        epochs: How many.
        images: Of an epoch, drawn anew for each.
        batch: Images a step.
        rate: Learning rate, falling to 0 by a cosine.
        warmup: Epochs in which it rises first.
        k: Images of each class in a batch that is drawn by classes.
    """

    epochs: int
    images: int
    batch: int
    rate: float
    warmup: float = 0.0
    k: int = 8

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return self.images // self.batch


def arms(beta: float) -> dict[str, Arm]:
    """All arms by name; those of :data:`FIVE` come first.

    Args:
        beta: Weight of the correlation congruence.
    """
    kd = Lesson()
    cc = replace(kd, beta=beta)
    found = {
        "CE": Arm(),
        "KD": Arm(kd),
        "KD + CC": Arm(cc),
        "KD + CC, class_uniform": Arm(cc, CLASSES),
        "KD + CC, superclass_uniform": Arm(cc, SUPERCLASSES),
        "KD, class_uniform": Arm(kd, CLASSES),
        "KD + CC mmd": Arm(replace(cc, kernel="mmd")),
        "KD + CC bilinear": Arm(replace(cc, kernel="bilinear")),
        "KD + CC P=1": Arm(replace(cc, order=1)),
        "KD + CC P=3": Arm(replace(cc, order=3)),
        "KD + CC exact": Arm(replace(cc, order=None)),
    }
    return found | {
        f"KD + CC beta={other:g}": Arm(replace(kd, beta=other))
        for other in (beta / 10, beta * 10)
    }  # fmt: skip


FIVE = ("CE", "KD", "KD + CC", "KD + CC, class_uniform", "KD + CC, superclass_uniform")
THREE = FIVE[:3]


class Kept(Logger):
    """Keeps the last value of everything that the engine logs."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, float] = {}

    @property
    def name(self) -> str:
        """Of the logger."""
        return "kept"

    @property
    def version(self) -> str:
        """Of the logger."""
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """There are none."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep them."""
        self.values.update(metrics)


class School:
    """The teacher, and what is worth finding out only once about it.

    Args:
        network: The teacher; it is never changed.
        data: Images.
        work: Folder for superclasses.
        gpu: Whether on a GPU, which several processes of a study share.
    """

    def __init__(self, network: nn.Module, data: Data, work: Path, gpu: bool = False) -> None:
        self.gpu = gpu
        images = torch.zeros(2, *data.train.pixels.shape[1:])
        self.teacher = Pupil(network.eval(), find_feature(network, images))
        self.data, self.work = data, work
        self._answers: dict[str, tuple[Tensor, Tensor]] = {}

    def answers(self, part: str) -> tuple[Tensor, Tensor]:
        """The teacher's logits and features of ``test`` or ``validation`` images."""
        if part not in self._answers:
            images: Images = getattr(self.data, part)
            self._answers[part] = answers(self.teacher.network, images, self.gpu)
        return self._answers[part]

    def batches(self, sampler: str, course: Course) -> MakeBatches | None:
        """What makes batches of a kind; superclasses are looked for once, whatever the seed."""
        if sampler == UNIFORM:
            return None
        if sampler == CLASSES:
            return partial(ClassUniform, k=course.k)
        feature, network = self.teacher.feature, self.teacher.network
        assert feature is not None
        weights = hashlib.sha256(dump_state(network)).hexdigest()
        engine = make_engine(self.data, BATCH, gpu=self.gpu)
        network.to(engine.device)
        found = superclasses(
            engine,
            lambda images: embedded(network, feature, images)[1],
            cluster_count("auto", 10, course.batch, course.k),
            {"weights": weights, "feature": feature.module},
            self.work,
        )
        return partial(SuperclassUniform, superclasses=found, k=course.k)

    def train(
        self, network: nn.Module, arm: Arm, course: Course, seed: int, key: str
    ) -> dict[str, float]:
        """Train a network in place.

        Args:
            network: The student.
            arm: What it learns from.
            course: How long.
            seed: Of order and augmentation.
            key: Of what is trained: the same for all arms, so that they see the same images.

        Returns:
            What was logged last, and the seconds of this process.
        """
        data = self.data
        few = data.validation.take(torch.arange(min(WATCHED, len(data.validation))))
        watched = Data(data.train, few, data.test)
        engine = make_engine(watched, course.batch, seed, course.steps, self.gpu, WORKERS)
        kept = Kept()
        engine.loggers.append(kept)
        batches = self.batches(arm.sampler, course)
        learning = Learning(arm.lesson, self.teacher if arm.lesson else None, batches)
        phase = Phase(course.epochs, course.rate, "cosine", course.warmup)
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            training = Training(OPTIMIZER)
            learning.fit(engine, network.train(), [phase], training, key, Path(folder))
        network.eval()
        return kept.values | {"seconds": time.process_time() - start}

    def figures(
        self, network: nn.Module, logged: Mapping[str, float], test: bool = True
    ) -> dict[str, object]:
        """What a row says of a network that was trained.

        Args:
            network: The student.
            logged: From :meth:`train`.
            test: Whether to look at test images: choices are made without.
        """
        found: dict[str, object] = {"val": self.judge(network, "validation")["accuracy"]}
        judged = self.judge(network, "test") if test else {}
        for name in ("accuracy", "agreement", "congruence"):
            found["test" if name == "accuracy" else f"test_{name}"] = judged.get(name, "")
        for name in ("loss", *TERMS, AGREEMENT, *(f"{SHARE}{term}" for term in TERMS)):
            found[name.replace(SHARE, "share_")] = logged.get(f"train/{name}", "")
        return found | {"seconds": logged["seconds"]}

    def judge(self, network: nn.Module, part: str) -> dict[str, float]:
        """Accuracy and agreement with the teacher in percent, and the congruence (RBF, P=2)."""
        images: Images = getattr(self.data, part)
        logits, features = answers(network, images, self.gpu)
        taught, theirs = self.answers(part)
        size = min(64, len(images))
        pairs = zip(features.split(size), theirs.split(size), strict=True)
        parts = [correlation_congruence(*pair) for pair in pairs if len(pair[0]) == size]
        said = logits.argmax(1)
        return {
            "accuracy": 100 * (said == images.labels).float().mean().item(),
            "agreement": 100 * (said == taught.argmax(1)).float().mean().item(),
            "congruence": torch.stack(parts).mean().item(),
        }


@torch.no_grad()
def answers(network: nn.Module, images: Images, gpu: bool = False) -> tuple[Tensor, Tensor]:
    """Logits ``(N, K)`` and features ``(N, d)`` of images that are not augmented."""
    device = torch.device("cuda" if gpu else "cpu")
    network.eval().to(device)
    feature = find_feature(network, torch.zeros(2, *images.pixels.shape[1:], device=device))
    batches = (batch.to(device) for batch, _ in images.batches(1_000 if gpu else BATCH))
    logits, features = zip(*(embedded(network, feature, one) for one in batches), strict=True)
    network.cpu()
    return torch.cat(logits).cpu(), torch.cat(features).cpu()

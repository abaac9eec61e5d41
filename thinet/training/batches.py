"""What ``sampler`` says: how training images are put into batches."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from thinet.artifacts.store import dump_state
from thinet.base.errors import ThinetError
from thinet.base.messages import say
from thinet.datasets.class_sampler import ClassUniform, SuperclassUniform
from thinet.datasets.sampler import MakeBatches
from thinet.datasets.sampler_checks import check_batches, cluster_count, images_per_class
from thinet.engine.distilled import Pupil
from thinet.engine.engine import Engine
from thinet.models.features import embedded
from thinet.run.settings import Settings
from thinet.run.setup import Setup
from thinet.surgery import evaluating
from thinet.training.superclasses import superclasses

UNIFORM, CLASSES, SUPERCLASSES = "uniform", "class_uniform", "superclass_uniform"
CACHE = ".superclasses"
"""Folder of what was found before, beside the cached baselines."""


@dataclass(frozen=True)
class Batches:
    """How training images are put into batches.

    Attributes:
        sampler: ``uniform``, ``class_uniform`` or ``superclass_uniform``.
        k: Images of each class or superclass in a batch, or ``auto``.
        clusters: How many superclasses, or ``auto``.
    """

    sampler: str = UNIFORM
    k: int | str = "auto"
    clusters: int | str = "auto"

    @classmethod
    def read(cls, settings: Settings) -> Batches:
        """From ``sampler``."""
        return cls(settings["sampler.name"], **settings.without("sampler", "name"))

    @property
    def is_usual(self) -> bool:
        """Whether images are shuffled, and nothing else."""
        return self.sampler == UNIFORM

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher's features say which images belong together."""
        return self.sampler == SUPERCLASSES

    def check(self, setup: Setup) -> None:
        """Compare with the training images, if they have been read; before any long work.

        Raises:
            ThinetError: If they cannot be put into such batches.
        """
        data = setup.data
        if self.is_usual or not data.is_read:
            return
        labels = data.plain_training().labels
        assert data.num_classes is not None
        world = setup.devices.devices * setup.devices.num_nodes
        if self.sampler == SUPERCLASSES:
            self._count_superclasses(setup, len(labels), world)
            return
        k = check_batches(labels, data.num_classes, data.batch_size, self.k, world, data.classes)
        say(f"batches: {k} images of each of {data.batch_size // k} classes")

    def _count_superclasses(self, setup: Setup, images: int, world: int) -> int:
        size, classes = setup.data.batch_size, setup.data.num_classes or 0
        clusters = cluster_count(self.clusters, classes, size, self.k, world)
        k = images_per_class(self.k, size, clusters, world, "superclass")
        if clusters * k > images:
            raise ThinetError(
                f"sampler.clusters={clusters} makes superclasses of fewer than sampler.k={k} of "
                f"the {images} training images: type sampler.clusters=auto."
            )
        return clusters

    def make(
        self, setup: Setup, engine: Engine, teacher: Pupil | None = None
    ) -> MakeBatches | None:
        """What makes the batches of an epoch; None shuffles the images.

        Args:
            setup: Of the run.
            engine: Of the run.
            teacher: Whose features say what the superclasses are.
        """
        if self.sampler == UNIFORM:
            return None
        if self.sampler == CLASSES:
            return partial(ClassUniform, k=self.k, num_classes=setup.data.num_classes)
        assert teacher is not None
        return partial(SuperclassUniform, superclasses=self._find(setup, engine, teacher), k=self.k)

    def _find(self, setup: Setup, engine: Engine, teacher: Pupil) -> list[int]:
        network, feature, data = teacher.network, teacher.feature, setup.data
        if feature is None:
            raise ThinetError(
                "sampler=superclass_uniform groups images by the teacher's features, which cannot "
                "be read: type distill.feature=<module>, or sampler=class_uniform."
            )
        source = setup.teacher or setup.source
        images = len(data.plain_training().labels)
        clusters = self._count_superclasses(setup, images, engine.world)
        content = {
            "weights": hashlib.sha256(dump_state(network)).hexdigest(),
            "feature": feature.module,
            "network": f"{source.target} {dict(source.arguments)} {network.__class__.__name__}",
        }

        def features_of(images: Tensor) -> Tensor:
            return embedded(network, feature, images)[1]

        network.to(engine.device)
        try:
            with evaluating(network):
                cache = setup.source.cache.parent / CACHE
                return superclasses(engine, features_of, clusters, content, cache)
        finally:
            network.cpu()

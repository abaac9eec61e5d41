"""Drawn images in the place of a data set's: for calibration, and for recovery after cuts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from thinet.base.errors import ThinetError
from thinet.base.messages import say
from thinet.base.seeding import derive_seed
from thinet.datasets.calibration import CalibrationImages
from thinet.datasets.steps import Step, Steps
from thinet.engine.engine import Engine
from thinet.engine.objective import Objective
from thinet.engine.phases import Phase
from thinet.engine.settings import Accuracy, Training
from thinet.run.settings import Settings
from thinet.run.setup import Setup
from thinet.synthesis.drawn import classes_of, draw, draw_noise
from thinet.synthesis.generator import Generator
from thinet.synthesis.kept import kept_generator
from thinet.synthesis.noise import Noise
from thinet.synthesis.objective import Unlabelled
from thinet.synthesis.read import Recipe
from thinet.synthesis.settings import Losses
from thinet.synthesis.training import plan_teaching
from thinet.synthesis.updates import Batches
from thinet.training.images import Fitting, ImageSource, Supply, Uncut
from thinet.training.learning import Learning

GENERATED = "generated"
TEMPERATURE = 4.0
"""Of the soft targets where ``distill`` names none, as in ``distill=kd``."""


@dataclass(frozen=True)
class Recovery:
    """How networks recover on drawn images.

    Attributes:
        batch_size: Images a step, over all devices together.
        steps: Of an epoch.
    """

    batch_size: int
    steps: int


@dataclass(frozen=True)
class Drawn(ImageSource):
    """Images that are drawn: by a generator, or as mere noise.

    Attributes:
        recipe: Of the generator's training.
        recovery: None where nothing is trained on them.
    """

    recipe: Recipe
    recovery: Recovery | None = None

    @classmethod
    def configure(cls, settings: Settings, name: str) -> Drawn:
        """From ``synthesis`` and, where the method fine-tunes on such images, ``finetune``."""
        recipe, recovery = Recipe.read(settings), None
        if settings.may_read("finetune") and settings["finetune.source"] == name:
            steps = settings["finetune.iterations"] or recipe.settings.course.iterations
            recovery = Recovery(settings["finetune.batch_size"], steps)
        return (Generated if name == GENERATED else PlainNoise)(recipe, recovery)

    def check(self, setup: Setup, network: nn.Module, images: Any) -> None:
        """Whether batches can be shared out over the devices."""
        world = setup.devices.devices * setup.devices.num_nodes
        size = 0 if self.recovery is None else self.recovery.batch_size
        if size % world:
            raise ThinetError(
                f"finetune.batch_size={size} cannot be shared equally by {world} processes: type "
                f"finetune.batch_size={size // world * world or world}."
            )

    @abstractmethod
    def begin(self, setup: Setup, engine: Engine, uncut: Uncut, counted: bool) -> Supply:
        """As there."""


@dataclass(frozen=True)
class PlainNoise(Drawn):
    """Normal noise: what any image has to be better than."""

    def begin(self, setup: Setup, engine: Engine, uncut: Uncut, counted: bool) -> Supply:
        """There is nothing to prepare."""
        return _Noise(setup, engine, uncut, self)


@dataclass(frozen=True)
class Generated(Drawn):
    """Images of a generator that was trained against the network before the cut."""

    def check(self, setup: Setup, network: nn.Module, images: Any) -> None:
        """Whether the network can judge images as it is asked to."""
        super().check(setup, network, images)
        if self.recipe.settings.losses.adversarial:
            raise ThinetError(
                "synthesis.losses.adversarial looks at a student, and here images are drawn before "
                "anything is cut: type synthesis.losses.adversarial=0."
            )
        memory = self.recipe.settings.memory
        if memory.pool or memory.average is not None:
            raise ThinetError(
                "synthesis.memory is for a student that learns while the generator changes, and "
                "here the generator is trained first: type synthesis.memory.average=null "
                "synthesis.memory.pool=0."
            )
        plan_teaching(setup, self.recipe, network, images)

    def begin(self, setup: Setup, engine: Engine, uncut: Uncut, counted: bool) -> Supply:
        """Train the generator, or take up one that was trained before."""
        generator = kept_generator(setup, engine, self.recipe, uncut(), counted)
        return _Generator(setup, engine, uncut, self, generator)


@dataclass(eq=False)
class _Drawn(Supply):
    """Drawn images at hand.

    Attributes:
        setup: Of the run.
        engine: Of the run.
        uncut: The network that was not cut.
        source: Its settings.
    """

    setup: Setup
    engine: Engine
    uncut: Uncut
    source: Drawn

    @abstractmethod
    def draw(self, count: int, batch: int, seed: int) -> Tensor:
        """Images ``(count, C, H, W)`` on the CPU."""

    @abstractmethod
    def draw_of(self, noise: Noise) -> Callable[[Step], Tensor]:
        """What draws the images of a step of training, on the engine's device."""

    @property
    def drawer(self) -> Generator | None:
        """The generator, if there is one."""
        return None

    def calibration(self, batch: int) -> CalibrationImages:
        """As many as of the data set would be; their labels are what the whole network sees."""
        return self._calibration

    @cached_property
    def _calibration(self) -> CalibrationImages:
        data, engine, size = self.setup.data, self.engine, self.source.recipe.settings.course
        assert data.num_classes is not None
        count = data.calibration_per_class * data.num_classes
        seed = derive_seed(self.setup.seed, "calibration")
        images = self.draw(count, size.batch_size, seed)
        network = self.uncut().to(engine.device)
        labels = classes_of(network, images, size.batch_size, engine.device)
        seen = len(labels.unique())
        say(f"calibration: {count} drawn images, of {seen} of {data.num_classes} classes")
        return CalibrationImages(list(images), labels)

    def fitting(self, learning: Learning) -> Fitting:
        """Recovery by the soft targets of the teacher, or of the network that was not cut."""
        teacher = learning.teacher.network if learning.teacher is not None else self.uncut()
        lesson = learning.lesson
        return _Recovery(self, teacher, TEMPERATURE if lesson is None else lesson.temperature)


@dataclass(eq=False)
class _Noise(_Drawn):
    def draw(self, count: int, batch: int, seed: int) -> Tensor:
        return draw_noise(count, batch, seed, tuple(self.setup.data.input_shape))

    def draw_of(self, noise: Noise) -> Callable[[Step], Tensor]:
        shape = tuple(self.setup.data.input_shape)
        return lambda step: noise.draw(step, 0, *shape).to(self.engine.device)


@dataclass(eq=False)
class _Generator(_Drawn):
    generator: Generator

    @property
    def drawer(self) -> Generator:
        return self.generator

    def draw(self, count: int, batch: int, seed: int) -> Tensor:
        self.generator.to(self.engine.device)
        try:
            return draw(self.generator, count, batch, seed)
        finally:
            self.generator.cpu()

    def draw_of(self, noise: Noise) -> Callable[[Step], Tensor]:
        return Batches(self.generator, noise).fresh


@dataclass(frozen=True, eq=False)
class _Recovery:
    """Trains networks by soft targets on drawn images: no label and no image of the data set."""

    supply: _Drawn
    teacher: nn.Module
    temperature: float

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
        """As :meth:`thinet.training.learning.Learning.fit`."""
        recovery = self.supply.source.recovery
        assert recovery is not None
        noise = Noise(derive_seed(engine.seed, key, "drawn"), recovery.batch_size)
        objective = Unlabelled(
            network, self.teacher, self.supply.draw_of(noise), phases, training,
            Losses(temperature=self.temperature), self.supply.drawer, smaller=Objective.smaller,
        )  # fmt: skip
        return engine.train(objective, key, folder, Steps(recovery.steps), title)

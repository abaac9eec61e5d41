"""The trainings of a run without data, each resumed where it was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from thinet.base.errors import ThinetError
from thinet.base.seeding import derive_seed
from thinet.datasets.steps import Step, Steps
from thinet.engine.distilled import Pupil
from thinet.engine.engine import Engine
from thinet.engine.logging.sending import log_picture
from thinet.engine.objective import Objective
from thinet.models.features import find_feature
from thinet.report.sections.synthesis import EpochRow
from thinet.run.setup import Setup
from thinet.surgery import evaluating
from thinet.synthesis.critic import Critic
from thinet.synthesis.generator import Generator
from thinet.synthesis.memory import ImagePool, average_of
from thinet.synthesis.noise import Noise
from thinet.synthesis.objective import DataFree, Imagining, Unlabelled
from thinet.synthesis.read import Recipe
from thinet.synthesis.recorder import Recorder
from thinet.synthesis.settings import GENERATOR_FIRST, Losses, Synthesis
from thinet.synthesis.stored import MADE, load_generator, save_generator
from thinet.synthesis.updates import Batches
from thinet.training.teacher import Renormalised, like

FOLDER = "generator"
"""Of the generator, below that of the run."""
PICTURES = "figures/generated"
SHOWN = "generated/images"
"""Name of the picture of an epoch on dashboards."""
NOISE_KEY, TOGETHER_KEY, GENERATOR_KEY, STUDENT_KEY = "noise", "data-free", "generator", "drawn"


def plan_teaching(setup: Setup, recipe: Recipe, teacher: nn.Module, images: Tensor) -> int:
    """Try on paper whether a teacher can judge images; how many parameters the generator has.

    Args:
        setup: Of the run.
        recipe: What is asked of it.
        teacher: With or without values.
        images: ``(N, C, H, W)``, without values.

    Raises:
        ThinetError: If it cannot, the batch cannot be shared out over the devices, or it is too
            small for the classes.
    """
    settings, world = recipe.settings, setup.devices.devices * setup.devices.num_nodes
    _check_classes(setup, settings)
    if settings.course.batch_size % world:
        size = settings.course.batch_size // world * world or world
        raise ThinetError(
            f"synthesis.course.batch_size={settings.course.batch_size} cannot be shared equally by "
            f"{world} processes: type synthesis.course.batch_size={size}."
        )
    critic_of(teacher, settings.losses, like(teacher, images))
    with torch.device("meta"):
        generator = Generator(_shape(images), **asdict(settings.drawing))
    return sum(one.numel() for one in generator.parameters())


def _check_classes(setup: Setup, settings: Synthesis) -> None:
    """Refuse a batch that cannot be of all classes, where it is to be."""
    size, classes = settings.course.batch_size, setup.data.num_classes or 0
    if settings.losses.entropy and size < classes:
        raise ThinetError(
            f"synthesis.course.batch_size={size} cannot hold images of all {classes} classes: type "
            f"synthesis.course.batch_size={2 * classes}, or synthesis.losses.entropy=0."
        )


def critic_of(teacher: nn.Module, losses: Losses, images: Tensor) -> Critic:
    """A teacher as a judge of images, its features found by a pass over any images.

    Args:
        teacher: Fixed.
        losses: What it looks at.
        images: ``(N, C, H, W)`` where the teacher is.

    Raises:
        ThinetError: If it cannot judge what it is asked for.
    """
    name, feature = losses.feature, None
    if name is not None and isinstance(teacher, Renormalised):
        name = f"network.{name}"
    try:
        with evaluating(teacher), torch.no_grad():
            feature = find_feature(teacher, images, name)
    except NotImplementedError:
        if not images.is_meta:
            raise
        # On paper it takes numbers: found out later.
        losses = replace(losses, activation=0.0, one_hot=1.0)
    except ThinetError:
        if losses.activation:
            raise
    return Critic(Pupil(teacher, feature), losses)


def _shape(images: Tensor) -> tuple[int, int, int]:
    channels, height, width = images.shape[1:]
    return channels, height, width


@dataclass(frozen=True, eq=False)
class Teaching:
    """A teacher, and how a generator and students are trained by it.

    Attributes:
        setup: Of the run.
        engine: Trains.
        recipe: How.
        teacher: Fixed, on the CPU between trainings.
        folder: Of the run.
    """

    setup: Setup
    engine: Engine
    recipe: Recipe
    teacher: nn.Module
    folder: Path

    @cached_property
    def generator(self) -> Generator:
        """With random weights, until it is trained; a file that an earlier attempt left is old."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.setup.seed, "generator"))
            shape = self.setup.data.input_shape
            return Generator(shape, **asdict(self.recipe.settings.drawing))

    @cached_property
    def critic(self) -> Critic:
        """The teacher as a judge."""
        images = torch.zeros(2, *self.setup.data.input_shape)
        return critic_of(self.teacher.cpu(), self.recipe.settings.losses, images)

    @property
    def iterations(self) -> int:
        """Of an epoch."""
        return self._steps().count

    @property
    def draws(self) -> int:
        """Batches that are drawn in an epoch of the generator's training and the student's."""
        course, average = self.recipe.settings.course, self.recipe.settings.memory.average
        own, its = course.generator_steps, course.student_steps
        if course.mode == GENERATOR_FIRST:
            return self._steps(own).count + self._steps(its).count
        # The student's first are the generator's last; an average draws in each of its turns.
        return self.iterations * (own + its - 1 + (its if average is not None else 0))

    def together(self, student: nn.Module, folder: Path) -> list[EpochRow]:
        """Train generator and student in turn, in place; figures of each epoch."""
        generator, memory = self.generator, self.recipe.settings.memory
        recorder, noise = self._recorder(folder), self._noise(TOGETHER_KEY)
        objective = DataFree(
            student, self.critic, Batches(generator, noise),
            (self.recipe.generator, self.recipe.student),
            None if memory.average is None else average_of(generator, memory.average),
            ImagePool(memory.pool, generator.shape) if memory.pool else None,
            memory.share, partial(self._note, recorder),
        )  # fmt: skip
        self._train(objective, TOGETHER_KEY, folder, "generator and student")
        return self._kept(recorder)

    def generator_alone(self, folder: Path) -> list[EpochRow]:
        """Train the generator; figures of each epoch."""
        recorder, noise = self._recorder(folder), self._noise(GENERATOR_KEY)
        batches = Batches(self.generator, noise)
        objective = Imagining(
            self.critic, batches, replace(self.recipe.generator, times=1),
            partial(self._note, recorder),
        )  # fmt: skip
        steps = self._steps(self.recipe.generator.times)
        self.engine.train(objective, GENERATOR_KEY, folder, steps, "generator", validated=False)
        return self._kept(recorder)

    def from_generator(self, student: nn.Module, folder: Path) -> None:
        """Teach a student what the teacher says of images that the finished generator draws."""
        # The step before has written it, in this process or in one that was killed since.
        self.engine.exists(self.folder / FOLDER / MADE)
        generator = load_generator(self.folder / FOLDER)
        batches = Batches(generator, self._noise(STUDENT_KEY))
        objective = self._unlabelled(student, batches.fresh, generator)
        self._train(objective, STUDENT_KEY, folder, "student", self.recipe.student.times)

    def on_noise(self, student: nn.Module, folder: Path) -> None:
        """Teach a student what the teacher says of normal noise, as long and by the same recipe."""
        noise, shape = self._noise(NOISE_KEY), self.setup.data.input_shape

        def draw(step: Step) -> Tensor:
            return noise.draw(step, 0, *shape).to(self.engine.device)

        objective = self._unlabelled(student, draw)
        self._train(objective, NOISE_KEY, folder, "student on noise", self.recipe.student.times)

    def _unlabelled(
        self, student: nn.Module, draw: Callable[[Step], Tensor], drawer: Generator | None = None
    ) -> Unlabelled:
        turn, losses = self.recipe.student, self.recipe.settings.losses
        return Unlabelled(student, self.teacher, draw, [turn.phase], turn.training, losses, drawer)

    def _train(
        self, objective: Objective, key: str, folder: Path, title: str, times: int = 1
    ) -> None:
        """Train; accuracies on validation images, where there are any, are looked at alone."""
        self.engine.train(objective, key, folder, self._steps(times), title)

    def _steps(self, times: int = 1) -> Steps:
        count, limit = self.recipe.settings.course.iterations * times, self.setup.devices
        return Steps(min(count, limit.max_steps_per_epoch or count))

    def _noise(self, key: str) -> Noise:
        seed = derive_seed(self.setup.seed, key)
        return Noise(seed, self.recipe.settings.course.batch_size)

    def _recorder(self, folder: Path) -> Recorder:
        data = self.setup.data
        assert data.num_classes is not None
        return Recorder(
            self.generator, self.teacher, self.recipe.settings, self.setup.seed, folder,
            self.folder / PICTURES, (tuple(data.mean), tuple(data.std)), data.num_classes,
            partial(log_picture, self.engine.loggers, SHOWN),
        )  # fmt: skip

    def _note(self, recorder: Recorder, epoch: int, figures: Mapping[str, float]) -> None:
        """On the first process; what stops that one stops all."""
        self.engine.decide(partial(recorder.note, epoch, figures))

    def _kept(self, recorder: Recorder) -> list[EpochRow]:
        """Keep the generator; the rows of its training, on every process."""
        drawing = self.recipe.settings.drawing
        if self.engine.rank == 0:
            save_generator(self.generator, drawing, self.folder / FOLDER)
        self.engine.barrier()
        return self.engine.decide(recorder.rows)

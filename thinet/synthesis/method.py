"""A student learns from a teacher's answers to drawn images: no image of a data set is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import nn

from thinet.artifacts.store import save
from thinet.base.messages import say
from thinet.metrics import Cost, cost
from thinet.report.sections.synthesis import KEY, Control, EpochRow, SynthesisDetails
from thinet.run.method import Method
from thinet.run.result import MODEL, Measurement, Outcome
from thinet.run.session import Session
from thinet.run.settings import Settings
from thinet.run.setup import Setup
from thinet.run.steps import Done, Keeping, Step, last_good, run_steps
from thinet.surgery import check_trainable
from thinet.synthesis.alarms import find_alarms
from thinet.synthesis.read import Recipe
from thinet.synthesis.settings import GENERATOR_FIRST
from thinet.synthesis.training import Teaching, plan_teaching
from thinet.training.measurement import evaluate_fully
from thinet.training.source import initial_network, network_spec, on_paper
from thinet.training.start import restore, start_with_teacher
from thinet.training.teacher import fitting_teacher, taught


@dataclass
class Progress:
    """What has to be remembered.

    Attributes:
        rows: Of the epochs of the generator's training.
        controls: Figures of the student taught on other images.
    """

    rows: list[EpochRow] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What it costs.

    Attributes:
        teacher: An image through the teacher.
        student: Through the student.
        generator: Parameters of the generator.
    """

    teacher: Cost
    student: Cost
    generator: int


@dataclass(frozen=True)
class Datafree(Method[Progress, Plan]):
    """Train a generator against a teacher, and a student on what it draws.

    Accuracies on images, where there are any, are measured and choose nothing: the student of the
    last iteration is what is left.

    Source: Chen et al. 2019 (DAFL).

    Attributes:
        recipe: Of images and of learning from them.
        controls: What else the same student is taught on, where there are images to measure it on.
    """

    recipe: Recipe
    controls: tuple[str, ...]
    remembers = Progress

    @classmethod
    def configure(cls, settings: Settings) -> Datafree:
        """From the groups and keys that its yaml names."""
        return cls(Recipe.read(settings), tuple(settings["method.controls"]))

    def without_images(self) -> None:
        """It can."""

    def plan(self, setup: Setup, progress: Progress) -> Plan:
        """What it costs.

        Raises:
            ThinetError: If there is no teacher, it does not fit, or it cannot judge images.
        """
        student, images = on_paper(setup)
        check_trainable(student)
        teacher = fitting_teacher(setup, images)
        parameters = plan_teaching(setup, self.recipe, teacher, images)
        shape = tuple(images.shape[1:])
        assert setup.teacher is not None
        on_meta, _ = on_paper(taught(setup, setup.teacher))
        return Plan(cost(on_meta, shape), cost(student, shape), parameters)

    def show(self, plan: Plan) -> None:
        """Print the costs."""
        course = self.recipe.settings.course
        for name, costs in (("teacher", plan.teacher), ("student", plan.student)):
            say(f"{name}: {costs.flops / 1e6:,.2f} MFLOPs, {costs.params:,} parameters")
        total = course.epochs * course.iterations
        say(
            f"generator: {plan.generator:,} parameters; {total:,} iterations of "
            f"{course.batch_size} images"
        )

    def run(self, session: Session[Progress], plan: Plan) -> Outcome:
        """Prepare the teacher, teach the controls, then generator and student."""
        setup, engine = session.setup, session.engine
        teacher = start_with_teacher(session)
        _tell("teacher", session.reference)
        teaching = Teaching(setup, engine, self.recipe, teacher, session.folder)
        if session.state.steps:
            network = restore(session, last_good(session))
        else:
            network, _ = initial_network(setup, "student")
        network = run_steps(session, self._steps(session, teaching), network, Keeping())
        model = evaluate_fully(setup, engine, network)
        if session.writes:
            save(network, session.folder / MODEL, network_spec(setup, metrics=model.figures()))
        engine.barrier()
        digests = tuple(engine.digests(network))
        details = {KEY: self._details(session, teaching)}
        return Outcome(session.reference, model, details, digests, reference_is="teacher")

    def _steps(self, session: Session[Progress], teaching: Teaching) -> list[Step]:
        control = partial(self._control, session, teaching)
        # Without images nobody would know how good they are.
        controls = self.controls if session.setup.data.has_images else ()
        steps = [Step(name, partial(control, name)) for name in controls]
        if self.recipe.settings.course.mode == GENERATOR_FIRST:
            first = Step("generator", partial(self._draw, session, teaching))
            return [*steps, first, Step("student", partial(self._learn, session, teaching))]
        return [*steps, Step("generator and student", partial(self._together, session, teaching))]

    def _control(
        self,
        session: Session[Progress],
        teaching: Teaching,
        name: str,
        network: nn.Module,
        folder: Path,
    ) -> Done:
        """Teach a student that begins like the true one on images of another kind."""
        setup, engine = session.setup, session.engine
        student, _ = initial_network(setup, f"student on {name}")
        teaching.on_noise(student, folder / "fit")
        found = evaluate_fully(setup, engine, student)
        _tell(f"student on {name}", found)
        control = Control(name, found)
        figures = {f"top1_{name}": found.val_top1}
        note = partial(session.progress.controls.append, control)
        return Done(network, figures, self._epochs, note=note)

    def _together(
        self, session: Session[Progress], teaching: Teaching, network: nn.Module, folder: Path
    ) -> Done:
        rows = teaching.together(network, folder / "fit")
        return self._done(session, network, rows, "student")

    def _draw(
        self, session: Session[Progress], teaching: Teaching, network: nn.Module, folder: Path
    ) -> Done:
        rows = teaching.generator_alone(folder / "fit")
        return self._done(session, network, rows, "generator")

    def _learn(
        self, session: Session[Progress], teaching: Teaching, network: nn.Module, folder: Path
    ) -> Done:
        teaching.from_generator(network, folder / "fit")
        return self._done(session, network, [], "student")

    def _done(
        self, session: Session[Progress], network: nn.Module, rows: list[EpochRow], who: str
    ) -> Done:
        last = rows[-1].figures if rows else {}
        figures = {"top1": last.get("val/top1"), "top5": last.get("val/top5")}
        note = partial(session.progress.rows.extend, rows)
        return Done(network, figures, self._epochs, f"{who}: trained", note)

    @property
    def _epochs(self) -> int:
        return self.recipe.settings.course.epochs

    def _details(self, session: Session[Progress], teaching: Teaching) -> SynthesisDetails:
        setup, settings = session.setup, self.recipe.settings
        course, losses, rows = settings.course, settings.losses, session.progress.rows
        assert setup.teacher is not None
        return SynthesisDetails(
            teacher=setup.teacher.name,
            student=setup.source.name,
            mode=course.mode,
            weights=losses.weights,
            base=losses.base,
            entropy_reduction=losses.entropy_reduction,
            activation_reduction=losses.activation_reduction,
            learn=losses.learn,
            temperature=losses.temperature,
            iterations=course.epochs * teaching.iterations,
            images=course.epochs * teaching.draws * course.batch_size,
            generator_parameters=sum(one.numel() for one in teaching.generator.parameters()),
            epochs=tuple(rows),
            controls=tuple(session.progress.controls),
            alarms=tuple(find_alarms(rows, settings, ended=True)),
            classes=tuple(setup.data.classes),
        )


def _tell(who: str, found: Measurement) -> None:
    if found.top1 is not None:
        say(f"{who}: test top-1 {100 * found.top1:.2f} %")

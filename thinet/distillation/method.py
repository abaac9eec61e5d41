"""A student learns from a teacher, beside the same student taught by labels alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from thinet.artifacts.store import save
from thinet.base.errors import ThinetError
from thinet.base.messages import say
from thinet.metrics import Cost, cost
from thinet.run.method import Method
from thinet.run.result import MODEL, Measurement, Outcome
from thinet.run.session import Session
from thinet.run.settings import Settings
from thinet.run.setup import Setup
from thinet.surgery import check_trainable
from thinet.training.distilling import Distilling
from thinet.training.measurement import evaluate_fully, measure_baseline
from thinet.training.source import (
    network_spec,
    on_paper,
    prepare_network,
)
from thinet.training.start import start_with_teacher
from thinet.training.student import train_own
from thinet.training.teacher import taught


@dataclass
class Progress:
    """What a distillation has to remember.

    Attributes:
        alone: Figures of the student that was taught by labels alone, once it was measured.
    """

    alone: Measurement | None = None


@dataclass(frozen=True)
class Plan:
    """What both networks cost."""

    teacher: Cost
    student: Cost


@dataclass(frozen=True)
class Distill(Method[Progress, Plan]):
    """Train a student by labels and by a teacher.

    Student and control begin with the same weights and see the same images for as many epochs, in
    the same order if the batches are shuffled: the recipe is that of the baseline. The control's
    batches always are, so that with another sampler the difference is that of both together.

    Attributes:
        distilling: What is learnt, and in which batches.
        only_distilled: Whether the control is left out.
    """

    distilling: Distilling
    only_distilled: bool = False
    remembers = Progress

    @classmethod
    def configure(cls, settings: Settings) -> Distill:
        """From the groups and keys that its yaml names."""
        return cls(Distilling.read(settings), settings["method.only_distilled"])

    def plan(self, setup: Setup, progress: Progress) -> Plan:
        """What teacher and student cost.

        Raises:
            ThinetError: If there is no teacher, it does not fit, or there is nothing to train.
        """
        if self.distilling.lesson is None:
            raise ThinetError(
                "method=distill learns from a teacher, but distill=none: type distill=kd or "
                "distill=cckd, or method=train for labels alone."
            )
        if not setup.source.phase.epochs or setup.source.train == "never":
            raise ThinetError(
                "method=distill trains the student by the recipe of baseline, which trains "
                "nothing: type for example baseline.train=auto baseline.epochs=8."
            )
        self.distilling.check(setup)
        assert setup.teacher is not None
        student, images = on_paper(setup)
        check_trainable(student)
        teacher, _ = on_paper(taught(setup, setup.teacher))
        shape = tuple(images.shape[1:])
        return Plan(cost(teacher, shape), cost(student, shape))

    def show(self, plan: Plan) -> None:
        """Print the costs of both."""
        for name, costs in (("teacher", plan.teacher), ("student", plan.student)):
            say(f"{name}: {costs.flops / 1e6:,.2f} MFLOPs, {costs.params:,} parameters")
        if plan.student.flops > plan.teacher.flops:
            say("the student costs more than the teacher: is that what was meant?")

    def run(self, session: Session[Progress], plan: Plan) -> Outcome:
        """Train or take up teacher and control, then train the student."""
        setup, engine = session.setup, session.engine
        teacher = start_with_teacher(session)
        say(f"teacher: {_top1(session.reference)}")
        if not self.only_distilled:
            self._train_alone(session)
        learning = self.distilling.begin(setup, engine, session.folder, teacher)
        network = train_own(session, learning, "distilled", "student")
        model = evaluate_fully(setup, engine, network)
        if session.writes:
            save(network, session.folder / MODEL, network_spec(setup, metrics=model.figures()))
        engine.barrier()
        return Outcome(
            session.reference,
            model,
            self.distilling.details(setup, setup.source.phase.epochs, session.progress.alone),
            tuple(engine.digests(network)),
            reference_is="teacher",
        )

    def _train_alone(self, session: Session[Progress]) -> None:
        """The control, which is kept like a baseline: a sweep trains it once."""
        setup, progress = session.setup, session.progress
        if progress.alone is not None:
            return
        source = replace(setup.source, train="always")
        if source.weights != "none":  # those that are given are no control yet
            source = replace(source, cache=source.cache.with_name(f"{source.cache.name}-trained"))
        own = taught(setup, source)
        network = prepare_network(own, session.engine, session.folder, "student alone")
        progress.alone = measure_baseline(own, session.engine, network)
        session.save()
        say(f"student alone: {_top1(progress.alone)}")


def _top1(found: Measurement) -> str:
    return f"test top-1 {100 * (found.top1 or 0):.2f} %"

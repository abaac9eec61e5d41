"""Train a network with one bit a weight and K bits an activation, and pack it to bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from thinet.artifacts.store import Transform, read_state, save
from thinet.base.messages import say
from thinet.metrics import Cost, cost
from thinet.quantization.comparison import compare
from thinet.quantization.convert import binarized, conversion_transform, described
from thinet.quantization.layers import binary_layers
from thinet.quantization.packed import PACKED, packed
from thinet.quantization.planning import Conversion, plan_conversion
from thinet.quantization.settings import Quantizer
from thinet.quantization.training import BinaryTraining, Bounded, Stage
from thinet.report.sections.quantization import KEY
from thinet.run.method import Method
from thinet.run.result import MODEL, Outcome
from thinet.run.session import Session
from thinet.run.settings import Settings, fill
from thinet.run.setup import Setup
from thinet.run.steps import Done, Keeping, Step, run_steps
from thinet.training.distilling import Distilling
from thinet.training.learning import Learning
from thinet.training.measurement import evaluate_fully
from thinet.training.source import build_network, network_spec, on_paper, rebuilt_network
from thinet.training.start import start


@dataclass
class Progress:
    """Nothing: finished steps and their weights are all there is."""


@dataclass(frozen=True)
class Plan:
    """What becomes binary, and what that costs.

    Attributes:
        conversion: Which layers, and what is done around them.
        before: Of the network in full precision.
        after: Of the binary one.
    """

    conversion: Conversion
    before: Cost
    after: Cost


@dataclass(frozen=True)
class Binarize(Method[Progress, Plan]):
    """Binarise a trained network, train it on, and pack its weights.

    Attributes:
        quantizer: Of the activations.
        quantizer_name: Of the option, for people.
        binary: How the binary network is trained.
        layers: ``auto``, or names and globs.
        distilling: What training learns from besides labels: from the network in full precision,
            if nobody else is named.
    """

    quantizer: Quantizer
    quantizer_name: str
    binary: BinaryTraining
    layers: str | tuple[str, ...]
    distilling: Distilling
    remembers = Progress

    @classmethod
    def configure(cls, settings: Settings) -> Binarize:
        """From the groups and keys that its yaml names."""
        layers = settings["layers"]
        return cls(
            fill(Quantizer, settings.without("quantizer", "name"), "quantizer"),
            settings["quantizer.name"],
            BinaryTraining.read(settings),
            layers if isinstance(layers, str) else tuple(layers),
            Distilling.read(settings),
        )

    def plan(self, setup: Setup, progress: Progress) -> Plan:
        """What becomes binary.

        Raises:
            ThinetError: If nothing can, or the training cannot be as it is asked for.
        """
        self.distilling.check(setup, own=True)
        network, images = on_paper(setup)
        shape = tuple(images.shape[1:])
        before = cost(network, shape)
        conversion = plan_conversion(network, images, self.layers)
        return Plan(conversion, before, cost(self._converted(network, conversion), shape))

    def show(self, plan: Plan) -> None:
        """Print what becomes binary, what does not and why, and the costs."""
        say(described(plan.conversion, self.quantizer))
        before, after = plan.before, plan.after
        say(
            f"operations of an image: {before.flops / 1e6:,.2f} MFLOPs before; "
            f"{after.flops / 1e6:,.2f} MFLOPs and {after.binary_ops / 1e6:,.2f} M 1-bit operations "
            f"after; parameters: {before.bits / 8e3:,.1f} kB before, {after.bits / 8e3:,.1f} after"
        )

    def run(self, session: Session[Progress], plan: Plan) -> Outcome:
        """Convert and train step by step, then pack, test, compare and save."""
        transform = conversion_transform(plan.conversion, self.quantizer)
        stages = self.binary.stages
        network = start(session, len(stages), transforms=[transform])
        if not session.state.steps:
            if session.writes:
                self.show(plan)
            network = self._converted(network, plan.conversion)
        left = len(session.state.steps) < len(stages)  # else the teacher is gone, and not needed
        learning = self.distilling.begin_after(session) if left else Learning()
        keeping = Keeping(
            baseline=self.distilling.teaches_itself(session.setup),
            spec=lambda: network_spec(session.setup, transforms=_done(session, transform)),
            restore=lambda path: rebuilt_network(
                session.setup, read_state(path), path, _done(session, transform)
            ),
        )
        train = partial(self._train, session, learning, plan.conversion.in_front)
        steps = [Step(one.name, partial(train, one)) for one in stages]
        network = run_steps(session, steps, network, keeping)
        return self._finished(session, plan, network, transform)

    def _converted(self, network: nn.Module, conversion: Conversion) -> nn.Module:
        transform = conversion_transform(conversion, self.quantizer)
        return binarized(network, **transform.arguments)  # type: ignore[arg-type]

    def _train(
        self,
        session: Session[Progress],
        learning: Learning,
        in_front: Sequence[str],
        stage: Stage,
        network: nn.Module,
        folder: Path,
    ) -> Done:
        for layer in binary_layers(network).values():
            layer.binary_weights = stage.binary_weights
        key = f"binary {stage.name}"
        objective = learning.objective(
            session.engine, network, [stage.phase], self.binary.training, key
        )
        bounded = Bounded(objective, self.binary.bounds, in_front)
        found = session.engine.train(bounded, key, folder / "fit", learning.batches)
        what = "activations and weights" if stage.binary_weights else "activations"
        assert found.top1 is not None  # it is refused where there are no images
        said = f"binary {what}: validation top-1 {100 * found.top1:.2f} %"
        figures: dict[str, float | None] = {"top1": found.top1, "top5": found.top5}
        return Done(network, figures, stage.phase.epochs, said)

    def _finished(
        self, session: Session[Progress], plan: Plan, network: nn.Module, transform: Transform
    ) -> Outcome:
        setup, engine = session.setup, session.engine
        network = packed_equal(network.cpu().eval(), setup.data.examples())
        # PyTorch unpacks bits at every call: its time is no latency of this network in use.
        model = replace(evaluate_fully(setup, engine, network), latency_ms=None)
        network = network.cpu()
        transforms = (transform, PACKED)
        if session.writes:
            spec = network_spec(setup, transforms=transforms, metrics=model.figures())
            save(network, session.folder / MODEL, spec)
        engine.barrier()
        details = engine.decide(
            lambda: compare(
                build_network(setup).eval(), network, self.quantizer_name, plan.conversion, setup
            )
        )
        return Outcome(
            session.reference,
            model,
            {KEY: details, **self.distilling.details(setup)},
            tuple(engine.digests(network)),
            reference_is="full precision",
        )


def _done(session: Session[Progress], transform: Transform) -> list[Transform]:
    """What the last finished step left is binary, the baseline is not."""
    return [transform] if session.state.steps else []


def packed_equal(network: nn.Module, images: Tensor) -> nn.Module:
    """A trained network, packed to bits.

    Args:
        network: Changed in place, on the CPU, in ``eval()`` mode.
        images: On which it has to compute the same bit for bit.

    Raises:
        RuntimeError: If it does not, which no user can put right.
    """
    with torch.no_grad():
        wanted = network(images)
        network = packed(network).eval()
        if not torch.equal(network(images), wanted):
            raise RuntimeError("the packed network differs from the trained one")
    return network

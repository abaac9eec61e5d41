"""Learn the slope of every activation: round by round of training, modules replaced before."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from thinet.artifacts.spec import Transform
from thinet.artifacts.store import save
from thinet.base.messages import say
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.run.method import Method
from thinet.run.result import MODEL, Outcome
from thinet.run.session import Session
from thinet.run.settings import Settings
from thinet.run.setup import Setup
from thinet.run.steps import Done, Keeping, Step, run_steps
from thinet.training.measurement import evaluate_fully
from thinet.training.source import network_spec
from thinet.training.start import start
from toyfamily.section import SlopesDetails


class Slope(nn.Module):
    """A leaky rectifier whose slope is learned."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.slope * x)


def with_slopes(network: nn.Module, slope: float) -> nn.Module:
    """Replace every ReLU, in place."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, Slope(slope))
    return network


@dataclass
class Progress:
    means: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Slopes(Method[Progress, int]):
    rounds: int
    slope: float
    phase: Phase
    training: Training
    remembers = Progress

    @classmethod
    def configure(cls, settings: Settings) -> Slopes:
        return cls(
            settings["method.rounds"], settings["method.slope"], settings.phase("finetune.stage"),
            settings.training("finetune"),
        )  # fmt: skip

    def plan(self, setup: Setup, progress: Progress) -> int:
        return self.rounds

    def show(self, plan: int) -> None:
        say(f"slopes: {plan} rounds")

    def run(self, session: Session[Progress], plan: int) -> Outcome:
        transform = Transform("toyfamily.method.with_slopes", {"slope": self.slope})
        network = start(session, plan, transforms=[transform])
        steps = [Step(f"round {n}", partial(self._round, session, n)) for n in range(plan)]
        network = run_steps(session, steps, network, Keeping())
        model = evaluate_fully(session.setup, session.engine, network)
        if session.writes:
            spec = network_spec(session.setup, transforms=[transform], metrics=model.figures())
            save(network, session.folder / MODEL, spec)
        session.engine.barrier()
        details = SlopesDetails(tuple(session.progress.means))
        digests = tuple(session.engine.digests(network))
        return Outcome(session.reference, model, {"toyfamily": details}, digests)

    def _round(
        self, session: Session[Progress], number: int, network: nn.Module, folder: Path
    ) -> Done:
        if number == 0:
            with_slopes(network, self.slope)
        found = session.engine.fit(
            network, [self.phase], self.training, f"round {number}", folder / "fit"
        )
        slopes = [float(one.slope) for one in network.modules() if isinstance(one, Slope)]
        mean = sum(slopes) / len(slopes)
        figures = {"top1": found.top1, "top5": found.top5, "slope": mean}
        return Done(
            network, figures, self.phase.epochs, f"round {number}: mean slope {mean:.4f}",
            lambda: session.progress.means.append(mean),
        )  # fmt: skip

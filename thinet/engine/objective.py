"""What training does: the network that is validated and saved, and the updates that change it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from thinet.base.errors import ThinetError
from thinet.engine.heads import head_apart
from thinet.engine.phases import Phase, learning_rate
from thinet.engine.settings import Training
from thinet.surgery import check_trainable, evaluating

LOSS = "loss"
"""Name of the update whose loss is shown while training goes on."""


@dataclass(frozen=True, eq=False)
class Update:
    """Some parameters, the loss that they follow, and the optimizer that moves them.

    Attributes:
        modules: Whose parameters are changed, each the objective's network or one of its parts;
            parameters that need no gradient stay as they are.
        loss: From a batch, as the training loader gives it, to values of the terms by name. It is
            called in the training mode of the network and the parts, with the random numbers of
            the batch, under autocast where the precision is mixed.
        weights: Of each term in the sum that is trained on.
        phases: The course of the learning rate.
        training: The optimizer, the limit of its gradients, the classifier's own rate.
        name: Its sum is logged as ``train/<name>``, and its terms, if there are several, under
            their own names.
        watched: Names of values that ``loss`` gives as well, to be logged and not trained on.
        times: How often it is made in its turn; the last time is logged. Of several updates only.
    """

    modules: tuple[nn.Module, ...]
    loss: Callable[[Any], Mapping[str, Tensor]]
    weights: Mapping[str, float]
    phases: Sequence[Phase]
    training: Training
    name: str = LOSS
    watched: tuple[str, ...] = ()
    times: int = 1

    @property
    def epochs(self) -> int:
        """Of all phases."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def logged(self) -> tuple[str, ...]:
        """Names of what is logged: the sum, the terms if there are several, what is watched."""
        return (self.name, *(self.weights if len(self.weights) > 1 else ()), *self.watched)

    def rate(self) -> Callable[[float], float]:
        """The learning rate after a number of epochs, fractions allowed."""
        return learning_rate(self.phases)

    def parameters(self) -> list[nn.Parameter]:
        """What is trained, each parameter once."""
        found = (one for module in self.modules for one in module.parameters())
        return list(dict.fromkeys(one for one in found if one.requires_grad))

    def make_optimizer(self) -> Optimizer:
        """Its optimizer, with a learning rate of 1, for the parameters that there are now."""
        make = self.training.make_optimizer
        for module in self.modules:
            make = head_apart(make, module, self.training.head_factor)
        return make(self.parameters())

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """The sum that is trained on, under the update's own name, its terms, what is watched.

        Raises:
            ValueError: If the terms are others than those that have weights or are watched.
        """
        terms = self.loss(batch)
        expected = {*self.weights, *self.watched}
        if terms.keys() != expected:
            raise ValueError(f"terms {sorted(terms)} of update {self.name}: {sorted(expected)}")
        summands = [
            terms[name] if weight == 1 else weight * terms[name]
            for name, weight in self.weights.items()
        ]
        total = sum(summands[1:], summands[0])
        return {self.name: total, **{name: terms[name] for name in self.logged[1:]}}


class Objective(ABC):
    """A network, and how training changes it.

    Whoever trains gives the same objective again after a kill: networks as they were built, the
    frozen ones with their weights.

    Attributes:
        network: Images ``(N, C, H, W)`` to logits: validated, and saved when it is trained.
        smaller: Learning rates to type where training diverges.
    """

    network: nn.Module
    smaller: str = "finetune.stage.lr=1e-3 baseline.lr=1e-2"

    @property
    @abstractmethod
    def updates(self) -> Sequence[Update]:
        """One is plain training; several are made in turn for every batch."""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """What else is trained or carried along, by name: in the checkpoint, but not saved."""
        return {}

    @property
    def frozen(self) -> Sequence[nn.Module]:
        """Teachers: on the device, in ``eval()`` mode, without gradients, in no checkpoint."""
        return ()

    def begin_batch(self, step: int) -> None:  # noqa: B027  # few draw anything themselves
        """Called on every process before each batch's updates.

        Args:
            step: Batches trained on before, the same on all processes and after a kill.
        """

    def settle(self) -> None:  # noqa: B027  # most have no bounds
        """Called after each batch's updates, to bring parameters back within their bounds."""

    def after_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:  # noqa: B027
        """Called on every process at the end of an epoch, before its checkpoint is written.

        It is called again for an epoch whose checkpoint was not.

        Args:
            epoch: From 0.
            figures: Means over the epoch, as they are logged: ``train/loss``, ``val/top1``, ...
        """


@dataclass(frozen=True, eq=False)
class Supervised(Objective):
    """Cross-entropy of the labels.

    Attributes:
        network: What is trained.
        phases: The course of the learning rate.
        training: Its optimizer and the smoothing of the labels.
    """

    network: nn.Module
    phases: Sequence[Phase]
    training: Training

    @property
    def updates(self) -> tuple[Update, ...]:
        """The one update."""
        weights = {"cross_entropy": 1.0}
        return (Update((self.network,), self._loss, weights, self.phases, self.training),)

    def _loss(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, labels = batch
        smoothing = self.training.label_smoothing
        loss = F.cross_entropy(self.network(images), labels, label_smoothing=smoothing)
        return {"cross_entropy": loss}


def check_objective(objective: Objective) -> int:
    """How many epochs an objective takes.

    Raises:
        ThinetError: If its updates differ in that, or a module that is trained refuses it.
        ValueError: If updates and terms share a name, a module that is trained belongs neither to
            the network nor to a part, or one is frozen at the same time.
    """
    updates = objective.updates
    names = [name for update in updates for name in update.logged]
    if not updates or len(set(names)) < len(names):
        raise ValueError(f"updates and terms need names of their own: {names}")
    own = set(_parameters([objective.network, *objective.parts.values()]))
    if not own.issuperset(_parameters(module for one in updates for module in one.modules)):
        raise ValueError("what an update trains must belong to the network or to a part")
    if own.intersection(_parameters(objective.frozen)):
        raise ValueError("what is frozen must not belong to the network or to a part")
    epochs = {update.name: update.epochs for update in updates}
    if len(set(epochs.values())) > 1:
        raise ThinetError(
            "alternate updates take equally many epochs, and these were given: "
            f"{', '.join(f'{count} for {name}' for name, count in epochs.items())}."
        )
    if any(one.times != 1 for one in updates) and len(updates) == 1:
        raise ValueError("a single update is made once for every batch")
    for update in updates:
        for module in update.modules:
            check_trainable(module)
    return updates[0].epochs


def _parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    return [parameter for module in modules for parameter in module.parameters()]


@contextmanager
def at_rest(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Within, modules compute as in evaluation and gather no gradients; then as before, on the CPU.

    Gradients still flow through them, to what made their input.
    """
    parameters = _parameters(modules)
    needs = [parameter.requires_grad for parameter in parameters]
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(evaluating(module))
            module.requires_grad_(False)
        try:
            yield
        finally:
            for module in modules:
                module.cpu()
            for parameter, need in zip(_parameters(modules), needs, strict=True):
                parameter.requires_grad_(need)

"""The Lightning module: a network, what trains it, accuracies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from thinet.artifacts.store import layer_widths, load_state_
from thinet.base.errors import DivergedError
from thinet.base.seeding import derive_seed
from thinet.datasets.steps import Step
from thinet.engine.logging.loggers import RunCSVLogger
from thinet.engine.objective import LOSS, Objective, Update

LOOK_AT_LOSS = 50
"""Batches between two looks at the loss, which make an accelerator wait."""


class Learner(LightningModule):
    """Trains a network towards an objective, and evaluates it.

    One update is left to Lightning's automatic optimization; several are made here, in turn and
    each as often as it says, for every batch, which counts as one step.

    Args:
        network: Images ``(N, C, H, W)`` to logits ``(N, classes)``.
        num_classes: How many classes.
        objective: Of that network; None only evaluates.
        steps_per_epoch: Steps in one epoch.
        seed: What the randomness of each epoch derives from.
        first_step: Steps done before, so that the axis of all stages is continuous.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        objective: Objective | None = None,
        steps_per_epoch: int = 1,
        seed: int = 0,
        first_step: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self.updates = () if objective is None else tuple(objective.updates)
        self.automatic_optimization = len(self.updates) <= 1
        self.parts = nn.ModuleDict({} if objective is None else dict(objective.parts))
        self._steps_per_epoch, self._seed, self._first_step = steps_per_epoch, seed, first_step
        # Of the epoch so far; a checkpoint within it has them too.
        self._logged = [name for update in self.updates for name in update.logged]
        self.mean_losses = nn.ModuleList(MeanMetric(nan_strategy="disable") for _ in self._logged)
        self.accuracy = MetricCollection(
            {
                "top1": MulticlassAccuracy(num_classes, average="micro"),
                "top5": MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes)),
            }
        )

    @property
    def steps_done(self) -> int:
        """Batches trained on: Lightning counts the steps of all optimizers."""
        return self.global_step // max(sum(update.times for update in self.updates), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch."""
        logits: Tensor = self.network(images)
        return logits

    def on_fit_start(self) -> None:
        """Bring along what is no part of this module."""
        for module in self.objective.frozen if self.objective is not None else ():
            module.to(self.device)

    def on_train_start(self) -> None:
        """Rows of epochs that a killed attempt did not finish are written again."""
        for logger in self.loggers:
            if isinstance(logger, RunCSVLogger):
                logger.rewind(self._first_step + self.steps_done)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout: a batch that is run again after a kill draws the same numbers."""
        place = (self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(derive_seed(self._seed, "batch", *place))
        self._settle()  # a checkpoint may have been written before the end of the last batch
        if self.objective is not None:
            self.objective.begin_batch(self.steps_done)

    def training_step(self, batch: Any, index: int) -> Tensor | None:
        """The loss of one batch, or all updates of several.

        Raises:
            DivergedError: If a loss has not been finite for some time.
        """
        done = self.steps_done
        if self.automatic_optimization:
            (update,) = self.updates
            losses = update.losses(batch)
            self._note(losses, batch, index, done)
            return losses[update.name]
        self._note(self._alternate(batch), batch, index, done)
        for schedule in self._schedules():
            schedule.step()
        return None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Bring parameters back within their bounds, before they are validated or saved."""
        self._settle()

    def _settle(self) -> None:
        if self.objective is not None:
            self.objective.settle()

    def _alternate(self, batch: Any) -> dict[str, Tensor]:
        """Make all updates, each with the parameters that those before it left.

        Returns:
            Losses of the last time that each was made.
        """
        losses: dict[str, Tensor] = {}
        for update, optimizer in zip(self.updates, self._optimizers(), strict=True):
            with self.toggled_optimizer(optimizer):  # the others' parameters get no gradients
                for _ in range(update.times):
                    found = update.losses(batch)
                    optimizer.zero_grad()
                    self.manual_backward(found[update.name])
                    optimizer.step()
            losses |= {name: loss.detach() for name, loss in found.items()}
        return losses

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradients of one of several updates: they have their true scale by now."""
        if self.automatic_optimization:
            return  # the Trainer does
        (update,) = [
            one
            for one, own in zip(self.updates, self.trainer.optimizers, strict=True)
            if own is optimizer
        ]
        if update.training.clip_norm is not None:
            self.clip_gradients(optimizer, update.training.clip_norm, "norm")

    def _optimizers(self) -> list[Any]:
        found = self.optimizers()
        return found if isinstance(found, list) else [found]

    def _schedules(self) -> list[Any]:
        found = self.lr_schedulers()
        return found if isinstance(found, list) else [found]

    def _note(self, losses: Mapping[str, Tensor], batch: Any, index: int, done: int) -> None:
        """Log the losses of a batch, the step, and the learning rates."""
        if index % LOOK_AT_LOSS == LOOK_AT_LOSS - 1:
            for name, loss in losses.items():
                self._refuse_divergence(name, self.trainer.strategy.reduce(loss.detach()))
        images = 1 if isinstance(batch, Step) else len(batch[1])
        sums = {update.name for update in self.updates}
        for name, mean in self._means():
            # One value an image: with nan_strategy="disable" torchmetrics leaves weights out.
            mean.update(losses[name].detach().expand(images))
            self.log(f"train/{name}", mean, on_step=False, on_epoch=True, prog_bar=name in sums)
        self.log("step", float(self._first_step + done + 1))
        for update, optimizer in zip(self.updates, self._optimizers(), strict=True):
            key = "train/lr" if len(self.updates) == 1 else f"train/lr_{update.name}"
            self.log(key, optimizer.param_groups[0]["lr"], on_step=True, on_epoch=False)

    def _means(self) -> list[tuple[str, MeanMetric]]:
        """The mean losses of the epoch so far, by the names under which they are logged."""
        return list(zip(self._logged, cast(Iterable[MeanMetric], self.mean_losses), strict=True))

    def on_train_epoch_end(self) -> None:
        """Stop at once when training has diverged; place the row of the epoch.

        Raises:
            DivergedError: If a mean loss of the epoch is not finite.
        """
        for name in self._logged:
            loss = self.trainer.callback_metrics.get(f"train/{name}")
            if loss is not None:
                self._refuse_divergence(name, loss)
        self._log_step()
        if self.objective is not None:
            found = self.trainer.callback_metrics.items()
            self.objective.after_epoch(
                self.current_epoch, {name: float(value) for name, value in found}
            )

    def _refuse_divergence(self, name: str, loss: Tensor) -> None:
        if self.objective is not None and not bool(torch.isfinite(loss)):
            what = "loss" if name == LOSS else f"loss {name}"
            raise DivergedError(
                f"training diverged: the {what} of epoch {self.current_epoch + 1} is not finite; "
                f"type smaller learning rates, for example {self.objective.smaller}."
            )

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count hits."""
        self._count(batch)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count hits."""
        self._count(batch)

    def _count(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        self.accuracy.update(self(images), labels)

    def on_validation_epoch_end(self) -> None:
        """Log the accuracies."""
        self._log_accuracy("val")

    def on_test_epoch_end(self) -> None:
        """Log the accuracies."""
        self._log_accuracy("test")

    def _log_accuracy(self, split: str) -> None:
        for name, value in self.accuracy.compute().items():
            self.log(f"{split}/{name}", value, prog_bar=name == "top1")
        self.accuracy.reset()
        self._log_step()

    def _log_step(self) -> None:
        """Lightning puts a row at the value of "step"; its own counter restarts every stage."""
        if self.updates:
            self.log("step", float(self._first_step + self.steps_done), rank_zero_only=True)

    def configure_optimizers(self) -> Any:
        """An optimizer for each update, with a learning rate that follows its phases."""
        found = [self._optimizer(update) for update in self.updates]
        return found[0] if len(found) == 1 else found

    def _optimizer(self, update: Update) -> Any:
        rate, steps = update.rate(), self._steps_per_epoch
        optimizer = update.make_optimizer()
        scheduler = LambdaLR(optimizer, lambda step: rate(step / steps))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint says what shape its network has, and the losses of the epoch so far."""
        checkpoint["thinet_widths"] = json.dumps(layer_widths(self.network))
        if not self.trainer.is_last_batch:
            found = {}
            for name, mean in self._means():
                with mean.sync_context():  # of all processes
                    found[name] = [mean.mean_value, mean.weight]
            checkpoint["thinet_losses"] = found

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give the network the shapes of the checkpoint before its weights are loaded."""
        if self.global_rank == 0 and "thinet_losses" in checkpoint:
            for name, mean in self._means():
                total, weight = (one.to(self.device) for one in checkpoint["thinet_losses"][name])
                mean.mean_value, mean.weight = total, weight
        prefix = "network."
        state = {
            name.removeprefix(prefix): tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name.startswith(prefix)
        }
        if layer_widths(self.network) != json.loads(checkpoint["thinet_widths"]):
            load_state_(self.network, state, "the checkpoint")

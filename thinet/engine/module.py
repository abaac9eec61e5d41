"""The Lightning module: a network, a loss, accuracies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from thinet.artifacts.store import layer_widths, load_state_
from thinet.base.errors import DivergedError
from thinet.base.seeding import derive_seed
from thinet.engine.logging.loggers import RunCSVLogger

LOOK_AT_LOSS = 50
"""Batches between two looks at the loss, which make an accelerator wait."""

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class Classifier(LightningModule):
    """Trains and evaluates a classifier.

    Args:
        network: Images ``(N, C, H, W)`` to logits ``(N, classes)``.
        num_classes: How many classes.
        make_optimizer: Makes the optimizer, with a learning rate of 1: ``rate`` sets the real one.
        rate: The learning rate after a number of epochs (fractions allowed).
        steps_per_epoch: Optimizer steps in one epoch.
        label_smoothing: Of the cross-entropy.
        seed: What the randomness of each epoch derives from.
        first_step: Steps done before, so that the axis of all stages is continuous.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        make_optimizer: MakeOptimizer | None = None,
        rate: Callable[[float], float] | None = None,
        steps_per_epoch: int = 1,
        label_smoothing: float = 0.0,
        seed: int = 0,
        first_step: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self._make_optimizer, self._rate = make_optimizer, rate
        self._steps_per_epoch, self._smoothing = steps_per_epoch, label_smoothing
        self._seed, self._first_step = seed, first_step
        # Of the epoch so far; a checkpoint within it has it too.
        self.mean_loss = MeanMetric(nan_strategy="disable")
        self.accuracy = MetricCollection(
            {
                "top1": MulticlassAccuracy(num_classes, average="micro"),
                "top5": MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes)),
            }
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch."""
        logits: Tensor = self.network(images)
        return logits

    def on_train_start(self) -> None:
        """Rows of epochs that a killed attempt did not finish are written again."""
        for logger in self.loggers:
            if isinstance(logger, RunCSVLogger):
                logger.rewind(self._first_step + self.global_step)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout: a batch that is run again after a kill draws the same numbers."""
        place = (self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(derive_seed(self._seed, "batch", *place))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross-entropy of one batch.

        Raises:
            ThinetError: If it has not been finite for some time.
        """
        images, labels = batch
        loss = F.cross_entropy(self(images), labels, label_smoothing=self._smoothing)
        if index % LOOK_AT_LOSS == LOOK_AT_LOSS - 1:
            self._refuse_divergence(self.trainer.strategy.reduce(loss.detach()))
        # One value an image: with nan_strategy="disable" torchmetrics leaves weights out.
        self.mean_loss.update(loss.detach().expand(len(labels)))
        self.log("train/loss", self.mean_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("step", float(self._first_step + self.global_step + 1))
        rates = [group["lr"] for group in self.optimizers().param_groups]  # type: ignore[union-attr]
        self.log("train/lr", rates[0], on_step=True, on_epoch=False)
        return loss

    def on_train_epoch_end(self) -> None:
        """Stop at once when training has diverged; place the row of the epoch.

        Raises:
            DivergedError: If the mean loss of the epoch is not finite.
        """
        loss = self.trainer.callback_metrics.get("train/loss")
        if loss is not None:
            self._refuse_divergence(loss)
        self._log_step()

    def _refuse_divergence(self, loss: Tensor) -> None:
        if not bool(torch.isfinite(loss)):
            raise DivergedError(
                f"training diverged: the loss of epoch {self.current_epoch + 1} is not finite; "
                "type smaller learning rates, for example finetune.stage.lr=1e-3 baseline.lr=1e-2."
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
        if self._rate is not None:
            self.log("step", float(self._first_step + self.global_step), rank_zero_only=True)

    def configure_optimizers(self) -> Any:
        """The optimizer, with a learning rate that follows ``rate`` step by step."""
        assert self._make_optimizer is not None
        assert self._rate is not None
        rate, steps = self._rate, self._steps_per_epoch
        optimizer = self._make_optimizer(
            [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        )
        scheduler = LambdaLR(optimizer, lambda step: rate(step / steps))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint says what shape its network has, and the loss of the epoch so far."""
        checkpoint["thinet_widths"] = json.dumps(layer_widths(self.network))
        if not self.trainer.is_last_batch:
            with self.mean_loss.sync_context():  # of all processes
                checkpoint["thinet_loss"] = [self.mean_loss.mean_value, self.mean_loss.weight]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give the network the shapes of the checkpoint before its weights are loaded."""
        if self.global_rank == 0 and "thinet_loss" in checkpoint:
            total, weight = (value.to(self.device) for value in checkpoint["thinet_loss"])
            self.mean_loss.mean_value, self.mean_loss.weight = total, weight
        prefix = "network."
        state = {
            name.removeprefix(prefix): tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name.startswith(prefix)
        }
        if layer_widths(self.network) != json.loads(checkpoint["thinet_widths"]):
            load_state_(self.network, state, "the checkpoint")

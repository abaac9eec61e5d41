"""Running a network: evaluation, fine-tuning and calibration on whatever devices there are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from thinet.base.errors import Terminated
from thinet.base.evaluation import CLASSIFICATION, RETRIEVAL, Evaluate
from thinet.base.seeding import derive_seed
from thinet.datasets.calibration import CalibrationImages
from thinet.datasets.loader import EpochLoader
from thinet.datasets.module import ImageData
from thinet.datasets.sampler import MakeBatches
from thinet.datasets.steps import Steps
from thinet.engine.checkpoints import StageCheckpoint, damaged
from thinet.engine.logging.loggers import RunCSVLogger
from thinet.engine.module import Learner
from thinet.engine.objective import Objective, Supervised, at_rest, check_objective
from thinet.engine.phases import Phase
from thinet.engine.processes import start_others
from thinet.engine.retrieval import retrieve
from thinet.engine.settings import UNKNOWN, Accuracy, Devices, Training
from thinet.engine.together import Together
from thinet.engine.trainers import call, make_trainer

CHECKPOINT = "last.ckpt"


@dataclass
class Engine(Together):
    """Builds a fresh Trainer for every task; the network is a plain module in between.

    Surgery replaces parameters, so an optimizer or a DDP wrapper must never outlive a stage.

    Attributes:
        data: The data set.
        devices: Where to run.
        loggers: Shared by all stages.
        seed: Of the run.
        step: Optimizer steps of all stages so far.
        evaluation: Of test images.
    """

    data: ImageData
    devices: Devices
    loggers: list[Logger] = field(default_factory=list)
    seed: int = 0
    step: int = 0
    evaluation: Evaluate = CLASSIFICATION
    _device: torch.device | None = field(default=None, init=False, repr=False)

    @property
    def device(self) -> torch.device:
        """The device of this process: Lightning knows it under every launcher.

        Apple's GPUs train, but statistics are sums in float64, which they do not have.
        """
        if self._device is None:
            root = self._trainer("placement", logger=False, callbacks=[]).strategy.root_device
            self._device = root if root.type == "cuda" else torch.device("cpu")
        return self._device

    def evaluate(self, network: nn.Module, split: str) -> Accuracy:
        """Accuracy of a network, or how well test images find their like by its features.

        Args:
            network: The network.
            split: ``val`` (early decisions) or ``test`` (final figures).

        Returns:
            No figures where the data set has no images.
        """
        if not self.data.has_images:
            return UNKNOWN
        trainer = self._trainer(f"evaluating on {split}", logger=False, callbacks=[])
        if split == "test" and self.evaluation == RETRIEVAL:
            return retrieve(self, trainer, network)
        module = Learner(network, self._classes())
        run = trainer.validate if split == "val" else trainer.test
        (found,) = call(trainer, run, module, datamodule=self.data, verbose=False)
        return Accuracy(found[f"{split}/top1"], found[f"{split}/top5"])

    def fit(
        self,
        network: nn.Module,
        phases: Sequence[Phase],
        training: Training,
        key: str,
        folder: Path,
        batches: MakeBatches | Steps | None = None,
        title: str | None = None,
    ) -> Accuracy:
        """Train a network in place, by the cross-entropy of its labels; see :meth:`train`.

        Args:
            network: Changed in place.
            phases: At least one epoch in all.
            training: Optimizer and loss.
            key: As in :meth:`train`; ``folder`` and ``batches`` too.
            folder: As above.
            batches: As above.
            title: As above.
        """
        objective = Supervised(network, phases, training)
        return self.train(objective, key, folder, batches, title)

    def train(
        self,
        objective: Objective,
        key: str,
        folder: Path,
        batches: MakeBatches | Steps | None = None,
        title: str | None = None,
        validated: bool = True,
    ) -> Accuracy:
        """Train networks in place; a killed call continues after its last finished epoch.

        Args:
            objective: What is trained, and how.
            key: What is trained: order and augmentation of the images derive from it.
            folder: For the checkpoint of the last epoch.
            batches: How training images are put into batches, or :class:`Steps` without any; None
                shuffles them.
            title: What is trained, for people; None shows the key.
            validated: Whether validation images are looked at after each epoch; a network that is
                not need not classify.

        Returns:
            Validation accuracy of the objective's network after the last epoch; no figures where
            it is not validated, or the data set has no images.

        Raises:
            DivergedError: If a loss is no longer finite.
            Terminated: If the process was told to end; a checkpoint has been written.
            ThinetError: If only the first process sees the checkpoint.
        """
        if not (validated and self.data.has_images):
            self._train(objective, key, folder, batches, title, limit_val_batches=0)
            return UNKNOWN
        trainer = self._train(objective, key, folder, batches, title)
        found = trainer.callback_metrics
        if "val/top1" not in found:  # killed after the last epoch: nothing was left to train
            return self.evaluate(objective.network, "val")
        return Accuracy(float(found["val/top1"]), float(found["val/top5"]))

    def _train(
        self,
        objective: Objective,
        key: str,
        folder: Path,
        batches: MakeBatches | Steps | None,
        title: str | None,
        **settings: Any,
    ) -> Trainer:
        """Train to the end, and bring all that was trained back to the CPU.

        Raises:
            Exception: As :meth:`train`.
        """
        epochs = check_objective(objective)
        self.data.stage_key = key
        with self._batches(batches):
            steps = self._steps_per_epoch()
            seed, network = derive_seed(self.seed, key), objective.network
            learner = Learner(network, self._classes(), objective, steps, seed, self.step)
            with at_rest(objective.frozen):
                trainer = self._run(learner, epochs, title or key, folder / CHECKPOINT, **settings)
        self.step += epochs * steps
        for module in (network, *objective.parts.values()):
            self.share(module)
            module.cpu()
        return trainer

    def count_trained(self, phases: Sequence[Phase], batches: Steps | None = None) -> None:
        """Count steps that a killed process of this run has trained and logged, but not counted.

        Whoever trains next would take their rows for those of an attempt that is made again.
        """
        rows = [one.last_step() for one in self.loggers if isinstance(one, RunCSVLogger)]
        if self.agree(max(rows, default=0) > self.step):
            with self._batches(batches):
                self.step += sum(phase.epochs for phase in phases) * self._steps_per_epoch()

    def calibration(self, batch: int) -> CalibrationImages:
        """The calibration images that can be decoded, decoded once, ``batch`` at a time."""
        view = self.data.calibration()
        loader = EpochLoader(view, self.data.unreadable, batch_size=batch)
        images: list[Tensor] = []
        labels: list[Tensor] = []
        for some, classes in loader:
            images.extend(some)
            labels.append(classes)
        return CalibrationImages(images, torch.cat(labels))

    def start_processes(self) -> None:
        """Start the other processes before anything is shared between them."""
        if self.world > 1:
            trainer = self._trainer("start", logger=False, callbacks=[], limit_val_batches=1)
            start_others(trainer)
            channels = self.data.input_shape[0]
            blank = _blank(self.data.input_shape, self.world)
            tiny = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, self._classes())
            )
            given = {"datamodule": self.data} if self.data.has_images else {"dataloaders": blank}
            call(trainer, trainer.validate, Learner(tiny, self._classes()), verbose=False, **given)

    def clear(self, folder: Path) -> None:
        """Remove what :meth:`fit` kept for resuming."""
        if self.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)

    def _classes(self) -> int:
        assert self.data.num_classes is not None
        return self.data.num_classes

    def _run(
        self, learner: Learner, epochs: int, title: str, checkpoint: Path, **settings: Any
    ) -> Trainer:
        """Train to the end, from the last checkpoint if there is one.

        Raises:
            Exception: As :meth:`train`.
        """
        keeper = StageCheckpoint(checkpoint, self.devices.checkpoint_minutes)
        alone = learner.updates[0] if learner.automatic_optimization else None
        trainer = self._trainer(
            title,
            alternate=alone is None,
            logger=self.loggers or False,
            callbacks=[keeper],
            max_epochs=epochs,
            gradient_clip_val=None if alone is None else alone.training.clip_norm,
            **settings,
        )
        resumed = checkpoint if self.exists(checkpoint) else None
        try:
            call(
                trainer, trainer.fit, learner,
                datamodule=self.data, ckpt_path=resumed, weights_only=True,
            )  # fmt: skip
        except Exception as error:
            if keeper.told_to_stop:  # and so were the processes that load images
                raise Terminated from error
            damage = None if resumed is None or trainer.global_step else damaged(resumed, error)
            if damage is None:
                raise
            raise damage from error
        if any(self.gather(keeper.told_to_stop)):  # in the last epoch; its checkpoint is there
            raise Terminated(agreed=True)
        return trainer

    @contextmanager
    def _batches(self, batches: MakeBatches | Steps | None) -> Iterator[None]:
        """Training images in batches of a kind of their own, within."""
        self.data.batches = batches
        try:
            yield
        finally:
            self.data.batches = None

    def _steps_per_epoch(self) -> int:
        batches = len(self.data.train_dataloader())
        return min(batches, self.devices.max_steps_per_epoch or batches)

    def _trainer(self, title: str, **settings: Any) -> Trainer:
        return make_trainer(self.devices, title, **settings)


def _blank(shape: tuple[int, int, int], count: int) -> DataLoader[tuple[Tensor, ...]]:
    """Black images of the first class."""
    return DataLoader(TensorDataset(torch.zeros(count, *shape), torch.zeros(count).long()))

"""What every data set shares: splits, calibration subset, loaders, sharding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from thinet.base.errors import ThinetError
from thinet.base.seeding import derive_seed
from thinet.datasets.decoders import find_reader
from thinet.datasets.images import Images, ImageView, NumberedView
from thinet.datasets.loader import EpochLoader, TrainLoader, outlive_sigterm
from thinet.datasets.reading import find_unreadable
from thinet.datasets.retrieval import Retrieval, everyone
from thinet.datasets.sampler import MakeBatches, TrainingOrder, eval_batches, shuffled
from thinet.datasets.split import balanced_subset, stratified_split
from thinet.datasets.steps import Step, StepLoader, Steps
from thinet.datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, SMALL, Preprocessing
from thinet.datasets.unreadable import Unreadable, UnreadableImages


@dataclass(frozen=True)
class Parts:
    """The published parts of a data set; without ``val`` one is split from ``train``."""

    train: Images
    test: Images
    val: Images | None = None


class ImageData(LightningDataModule, ABC):
    """Base of all data sets: a subclass says how to check and read its parts.

    Training order and augmentation depend only on ``(seed, stage_key, epoch)``; validation, test
    and calibration images come in a fixed order without augmentation.

    Args:
        image_size: Side of the network's input, in pixels.
        batch_size: Images per optimizer step, over all ranks together.
        num_classes: What the network is built for; None finds it out in :meth:`check`.
        num_workers: Loader processes per rank; 0 loads in the main process.
        seed: Seed of the run.
        calibration_per_class: Images per class in :meth:`calibration`.
        val_fraction: Part of each training class that validates, in (0, 1).
        resize: See :class:`~thinet.datasets.transforms.Preprocessing`; ``crop`` and ``flip`` too.
        crop: As above.
        flip: As above.
        mean: Mean per channel for pixels in [0, 1]; None takes the data set's own.
        std: Standard deviation per channel; None takes the data set's own.
        loader: What decodes image files; see :func:`~thinet.datasets.decoders.find_reader`.
        max_unreadable: Fraction of all images that may be left out since they cannot be decoded.

    Attributes:
        classes: Names by class index, known after :meth:`check` or :meth:`setup`.
        stage_key: What is being trained; set it before a stage so that its order is its own.
        batches: How training images are put into batches: None shuffles them, :class:`Steps` gives
            none.
        numbered: Whether test images come with their position in the place of their label.
        unreadable: The images that this process has left out.
        test_is_retrieval: Whether test images are of other classes than training images, so that
            they can be found again (:meth:`retrieval`) but not classified.
        has_images: Whether there are any.

    Raises:
        ThinetError: If an option is out of range.
    """

    default_mean: tuple[float, float, float] = IMAGENET_MEAN
    default_std: tuple[float, float, float] = IMAGENET_STD
    test_is_retrieval: bool = False
    has_images: bool = True

    def __init__(
        self,
        *,
        image_size: int,
        batch_size: int = 64,
        num_classes: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        calibration_per_class: int = 10,
        val_fraction: float = 0.1,
        resize: str = "auto",
        crop: str = "auto",
        flip: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        loader: str = "pil",
        max_unreadable: float = 0.001,
    ) -> None:
        super().__init__()
        _check_settings(max_unreadable, val_fraction, calibration_per_class)
        self.image_size = image_size
        self.batch_size = batch_size
        self.num_classes = num_classes
        self.num_workers = num_workers
        self.seed = seed
        self.calibration_per_class = calibration_per_class
        self.val_fraction = val_fraction
        self.mean = tuple(mean or self.default_mean)
        self.std = tuple(std or self.default_std)
        self.preprocessing = Preprocessing(image_size, resize, crop, flip, self.mean, self.std)
        self.read = find_reader(loader)
        self.unreadable = UnreadableImages(max_unreadable)
        self.classes: list[str] = []
        self._identity: dict[str, str] = {}
        self.stage_key = "train"
        self.batches: MakeBatches | Steps | None = None
        self.numbered = False
        self._train: ImageView | None = None

    @abstractmethod
    def check(self) -> None:
        """Look at the files without reading them all, and fill in ``classes``.

        Raises:
            ThinetError: Saying what is wrong and what to type.
        """

    @abstractmethod
    def load_parts(self) -> Parts:
        """Read the published parts; called once, after :meth:`check`."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(3, height, width) of one image as the network sees it."""
        return (3, self.image_size, self.image_size)

    def setup(self, stage: str | None = None) -> None:
        """Read the data and split them; calling it again changes nothing.

        Raises:
            ThinetError: As :meth:`check`, if too many images cannot be decoded, or if no class has
                one to spare for validation.
        """
        if self._train is not None:
            return
        self.check()
        parts = self.load_parts()
        named = {"train": parts.train, "val": parts.val, "test": parts.test}
        there = {name: part for name, part in named.items() if part is not None}
        self._identity = {
            name: f"{len(part)} images, {part.digest()}" for name, part in there.items()
        }
        self.unreadable.begin(sum(map(len, there.values())))
        kept: Sequence[int] = range(len(parts.train))
        val_images = parts.val
        val_positions: Sequence[int] = range(len(parts.val or ()))
        if val_images is None:
            kept, aside = stratified_split(
                parts.train.labels.tolist(), self.val_fraction, derive_seed(self.seed, "val")
            )
            val_images, val_positions = parts.train, aside
        if not len(val_positions):
            raise ThinetError(
                "every class has a single training image, so none is left to validate with: add "
                "images, or a val/ folder beside train/ and test/."
            )
        plain = self.preprocessing.evaluation()
        self._plain_train = ImageView(parts.train, kept, plain)
        self._val = ImageView(val_images, val_positions, plain)
        self._test = ImageView(parts.test, range(len(parts.test)), plain)
        self._train = ImageView(parts.train, kept, self.preprocessing.training())

    @property
    def is_read(self) -> bool:
        """Whether :meth:`setup` has read the data."""
        return self._train is not None

    def decode(self, paths: Iterable[str]) -> None:
        """Decode some files and count those that are broken; a :meth:`check` calls this."""
        for path, reason in find_unreadable(paths):
            self.unreadable.note(path, reason)

    def identity(self) -> dict[str, str]:
        """For each part a line that changes when images come, go or change."""
        self.setup()
        return dict(self._identity)

    def train_dataloader(self) -> DataLoader[Any]:
        """This rank's share of the shuffled, augmented training images of the current epoch.

        Raises:
            ThinetError: If the batch cannot be shared out equally over the ranks.
        """
        rank, world = self._rank_and_world()
        epoch = self.trainer.current_epoch if self.trainer else 0
        order = TrainingOrder(self.seed, self.stage_key, epoch, rank, world)
        if isinstance(self.batches, Steps):
            return StepLoader(self.batches, order, self._batches_done)
        self.setup()
        assert self._train is not None
        how = self._working()
        if self.batches is None:
            how |= shuffled(len(self._train), self.batch_size, order)
        else:
            how["batch_sampler"] = self.batches(self._train.labels, self.batch_size, order)
        return TrainLoader(self._train, self.unreadable, self._batches_done, **how)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """This rank's share of the validation images, in order."""
        self.setup()
        return self._eval_loader(self._val)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """This rank's share of the published test images, in order."""
        self.setup()
        test = self._test
        if self.numbered:
            test = NumberedView(test.images, test.positions, test.transform)
        return self._eval_loader(test)

    def plain_training(self) -> ImageView:
        """The training images without augmentation, in the order of what ``batches`` is given."""
        self.setup()
        return self._plain_train

    def retrieval(self) -> Retrieval:
        """Which test images look for which others; here each for its class among all others."""
        self.setup()
        return everyone(self._test.labels)

    def calibration(self) -> ImageView:
        """Training images without augmentation, ``calibration_per_class`` of each class.

        Returns:
            The same ``(image, label)`` items in the same order on every rank; classes take turns.
        """
        train = self.plain_training()
        chosen = balanced_subset(
            train.labels, self.calibration_per_class, derive_seed(self.seed, "calibration")
        )
        return ImageView(train.images, train.positions[chosen], train.transform)

    def examples(self) -> Tensor:
        """The first and the last calibration image that can be decoded, ``(2, 3, H, W)``."""
        view = self.calibration()

        def first(positions: Iterable[int]) -> Tensor:
            items = (view[position] for position in positions)
            return next(item[0] for item in items if not isinstance(item, Unreadable))

        return torch.stack([first(range(len(view))), first(reversed(range(len(view))))])

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor] | Step, dataloader_idx: int
    ) -> tuple[Tensor, Tensor] | Step:
        """Larger images lie ``channels_last`` on an accelerator, whose convolutions prefer it."""
        if isinstance(batch, Step):
            return batch
        images, labels = batch
        if images.device.type == "cpu" or self.image_size <= SMALL:
            return images, labels
        return images.contiguous(memory_format=torch.channels_last), labels

    def _eval_loader(self, view: ImageView) -> DataLoader[tuple[Tensor, int]]:
        rank, world = self._rank_and_world()
        batches = eval_batches(len(view), max(self.batch_size // world, 2), rank, world)
        return EpochLoader(view, self.unreadable, batch_sampler=batches, **self._working())

    def _working(self) -> dict[str, object]:
        """How every loader works."""
        return {
            "num_workers": self.num_workers,
            "worker_init_fn": outlive_sigterm if self.num_workers else None,
            "persistent_workers": self.num_workers > 0,  # from epoch to epoch of a stage
            "pin_memory": torch.cuda.is_available(),
            # of the loader's own, so that starting it draws nothing from the run's
            "generator": torch.Generator().manual_seed(derive_seed(self.seed, "loader")),
        }

    def _batches_done(self) -> int:
        """Batches of the current epoch that the trainer has finished."""
        assert self.trainer is not None
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def _rank_and_world(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _set_classes(self, classes: Sequence[str], where: str) -> None:
        """Take over the names of the classes found.

        Raises:
            ThinetError: If ``num_classes`` was given and is another number.
        """
        if self.num_classes not in (None, len(classes)):
            raise ThinetError(
                f"dataset.num_classes={self.num_classes} but {where} has {len(classes)} classes: "
                f"type dataset.num_classes={len(classes)} or leave it out."
            )
        self.classes = list(classes)
        self.num_classes = len(classes)


def _check_settings(max_unreadable: float, val_fraction: float, calibration_per_class: int) -> None:
    if not 0 <= max_unreadable < 1:
        raise ThinetError(
            f"dataset.max_unreadable={max_unreadable} is not a fraction in [0, 1): type for "
            "example dataset.max_unreadable=0.001, or 0 to leave out no image."
        )
    if not 0 < val_fraction < 1:
        raise ThinetError(
            f"dataset.val_fraction={val_fraction} is outside (0, 1): early decisions need "
            "validation images, so type for example dataset.val_fraction=0.1."
        )
    if calibration_per_class < 1:
        raise ThinetError(
            f"dataset.calibration_per_class={calibration_per_class} leaves nothing to measure: "
            "type for example dataset.calibration_per_class=10."
        )

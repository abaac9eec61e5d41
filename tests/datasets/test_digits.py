from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from thinet.base.errors import ThinetError
from thinet.datasets.digits import Digits
from thinet.datasets.module import ImageData


def digits(**options: object) -> Digits:
    return Digits(**{"image_size": 32, "batch_size": 64, **options})


def batches(loader: object) -> list[tuple[Tensor, Tensor]]:
    return [(images, labels) for images, labels in loader]


def same(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(one, other, strict=True)
    )


def pixels(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def everything(loader: object) -> Tensor:
    return torch.cat([images for images, _ in batches(loader)])


def test_the_parts_are_all_of_scikit_learns_digits() -> None:
    data = digits()
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    parts = [everything(loader) for loader in loaders]
    assert sum(len(part) for part in parts) == 1797
    distinct = len({image.tobytes() for image in load_digits().images})
    assert len(set().union(*(pixels(part) for part in parts))) == distinct
    assert (data.num_classes, data.input_shape) == (10, (3, 32, 32))
    assert data.classes == list("0123456789")


def test_training_images_are_standardised() -> None:
    train = everything(digits().train_dataloader())
    assert abs(train.mean()) < 0.02
    assert abs(train.std() - 1) < 0.02


def test_the_test_part_is_the_same_for_every_seed_and_validation_is_not() -> None:
    one, other = digits(seed=0), digits(seed=1)
    assert same(batches(one.test_dataloader()), batches(other.test_dataloader()))
    assert not same(batches(one.val_dataloader()), batches(other.val_dataloader()))
    assert same(batches(one.val_dataloader()), batches(digits(seed=0).val_dataloader()))


def test_calibration_is_balanced_and_from_the_training_part() -> None:
    data = digits(calibration_per_class=7, crop="pad", flip=True)
    calibration = data.calibration()
    images = torch.stack([image for image, _ in calibration])
    assert Counter(label for _, label in calibration) == dict.fromkeys(range(10), 7)
    assert calibration.labels == [label for _, label in calibration]
    plain = everything(digits().train_dataloader())
    assert pixels(images) <= pixels(plain)
    assert not pixels(images) & pixels(everything(data.val_dataloader()))
    again = torch.stack([image for image, _ in digits(calibration_per_class=7).calibration()])
    assert torch.equal(images, again)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_reproduced_whatever_was_drawn_before(
    workers: int, on_rank: Callable[..., SimpleNamespace]
) -> None:
    def epoch(number: int, stage: str = "stage-1", workers: int = 0) -> list[tuple[Tensor, Tensor]]:
        data = digits(crop="pad", flip=True, num_workers=workers)
        data.trainer, data.stage_key = on_rank(epoch=number), stage
        return batches(data.train_dataloader())

    torch.manual_seed(0)
    first = epoch(3)
    torch.manual_seed(1)
    assert same(first, epoch(3, workers=workers))
    assert not same(first, epoch(4))
    assert not same(first, epoch(3, stage="stage-2"))


def test_two_ranks_see_every_evaluated_image_once(
    on_rank: Callable[..., SimpleNamespace],
) -> None:
    alone = digits()
    for name in ("val_dataloader", "test_dataloader"):
        shards = []
        for rank in range(2):
            data = digits()
            data.trainer = on_rank(rank, world=2)
            shards.append(everything(getattr(data, name)()))
        whole = everything(getattr(alone, name)())
        assert torch.equal(shards[0], whole[0::2])
        assert torch.equal(shards[1], whole[1::2])


def test_two_ranks_train_on_the_batches_of_one(on_rank: Callable[..., SimpleNamespace]) -> None:
    alone = batches(digits(crop="pad").train_dataloader())
    ranks = []
    for rank in range(2):
        data = digits(crop="pad")
        data.trainer = on_rank(rank, world=2)
        ranks.append(batches(data.train_dataloader()))
    assert len(ranks[0]) == len(ranks[1])
    for whole, *halves in zip(alone, *ranks, strict=True):
        together = torch.cat([images for images, _ in halves])
        assert pixels(together) <= pixels(whole[0])
        assert len(whole[0]) - len(together) <= 1


def test_a_batch_that_cannot_be_shared_is_refused(
    on_rank: Callable[..., SimpleNamespace],
) -> None:
    data = digits(batch_size=63)
    data.trainer = on_rank(0, world=2)
    with pytest.raises(ThinetError, match=r"type finetune\.batch_size=64"):
        data.train_dataloader()


def test_only_a_last_batch_of_one_is_dropped() -> None:
    data = digits()
    data.setup()
    count = len(everything(data.train_dataloader()))
    for batch_size in (count - 1, count - 2, count):
        sizes = [len(x) for x, _ in digits(batch_size=batch_size).train_dataloader()]
        expected = {count - 1: [count - 1], count - 2: [count - 2, 2], count: [count]}
        assert sizes == expected[batch_size]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"val_fraction": 0}, "dataset.val_fraction=0.1"),
        ({"val_fraction": 1.0}, "dataset.val_fraction=0.1"),
        ({"calibration_per_class": 0}, "dataset.calibration_per_class=10"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ThinetError, match=words):
        digits(**options)


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(ThinetError, match=r"type dataset\.num_classes=10"):
        digits(num_classes=7).check()


class _Recorder(pl.LightningModule):
    """Remembers what a Trainer feeds it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3 * 8 * 8, 10)
        self.train_labels: list[list[int]] = []
        self.val_count = 0

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        if index == 0:
            self.train_labels.append([])
        self.train_labels[-1] += batch[1].tolist()
        return self.layer(batch[0].flatten(1)).logsumexp(1).mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self.val_count += len(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("reload", [0, 1])
def test_lightning_walks_through_the_epochs(
    reload: int, on_rank: Callable[..., SimpleNamespace]
) -> None:
    def fed(data: ImageData, epoch: int) -> list[int]:
        data.trainer = on_rank(epoch=epoch)
        return torch.cat([labels for _, labels in data.train_dataloader()]).tolist()

    model = _Recorder()
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=reload,
    )
    data = digits(image_size=8)
    trainer.fit(model, datamodule=data)
    assert model.train_labels == [fed(digits(image_size=8), 0), fed(digits(image_size=8), 1)]
    assert model.val_count == 2 * len(data.val_dataloader().dataset)

"""When loaders begin, how long their workers live, and where batches lie."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from thinet.datasets.digits import Digits

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def digits(workers: int, **options: object) -> Digits:
    return Digits(image_size=8, batch_size=300, num_workers=workers, **options)


def labels_of(loader: object) -> list[int]:
    return torch.cat([labels for _, labels in loader]).tolist()


def order(epoch: int, on_rank: Callable[..., SimpleNamespace]) -> list[int]:
    data = digits(0)
    data.trainer = on_rank(epoch=epoch)
    return labels_of(data.train_dataloader())


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_loaded_before_the_first_batch_is_asked_for(workers, on_rank) -> None:
    loader = digits(workers).train_dataloader()
    begun = iter(loader)
    assert multiprocessing.active_children() == []
    loader.sampler.set_epoch(3)  # Lightning tells it after iter()
    assert labels_of(begun) == order(3, on_rank)


class _Process:
    def __call__(self, image: Tensor) -> Tensor:
        return torch.tensor(os.getpid())


def test_workers_live_from_epoch_to_epoch_and_end_with_the_loader() -> None:
    data = digits(2)
    data.setup()
    data._train.transform = _Process()
    loader = data.train_dataloader()
    first, second = ({int(x) for images, _ in loader for x in images} for _ in range(2))
    assert first == second == {child.pid for child in multiprocessing.active_children()}
    assert len(first) == 2
    del loader
    assert multiprocessing.active_children() == []


class _Recorder(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3 * 8 * 8, 10)
        self.epochs: list[list[int]] = []

    def on_train_epoch_start(self) -> None:
        self.epochs.append([])

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        self.epochs[-1] += batch[1].tolist()
        return self.layer(batch[0].flatten(1)).logsumexp(1).mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(epochs: int, folder: Path, reload: int) -> pl.Trainer:
    keeper = pl.callbacks.ModelCheckpoint(folder, "last", save_on_train_epoch_end=True)
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, callbacks=[keeper],
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, reload_dataloaders_every_n_epochs=reload,
    )  # fmt: skip


@pytest.mark.parametrize("reload", [0, 1])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_fit_goes_on_with_the_order_of_its_epoch(
    workers, reload, on_rank, tmp_path
) -> None:
    trainer(1, tmp_path, reload).fit(_Recorder(), datamodule=digits(workers))
    resumed = _Recorder()
    trainer(3, tmp_path, reload).fit(
        resumed, datamodule=digits(workers), ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert resumed.epochs == [order(1, on_rank), order(2, on_rank)]
    assert multiprocessing.active_children() == [], "workers that nobody waits for"


@pytest.mark.parametrize(
    ("device", "size", "wanted"),
    [
        ("cpu", 224, torch.contiguous_format),
        ("meta", 224, torch.channels_last),  # stands for an accelerator
        ("meta", 32, torch.contiguous_format),
    ],
)
def test_large_images_lie_channels_last_on_an_accelerator(device, size, wanted) -> None:
    images, labels = torch.empty(4, 3, size, size, device=device), torch.arange(4)
    found, same = Digits(image_size=size).on_after_batch_transfer((images, labels), 0)
    assert found.is_contiguous(memory_format=wanted)
    assert same is labels

"""Test images that look for their like by the features of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from thinet.base.errors import ThinetError
from thinet.datasets.retrieval import Retrieval
from thinet.engine.settings import Accuracy
from thinet.engine.trainers import call
from thinet.metrics.retrieval import search
from thinet.models.features import find_feature, reading

if TYPE_CHECKING:
    from thinet.engine.engine import Engine


class Embedder(LightningModule):
    """Collects the features of images.

    Args:
        network: Images ``(N, C, H, W)`` to logits.
        read: The features (N, d) of its last forward pass.

    Attributes:
        positions: (N,) of each batch so far: which images they were.
        features: (N, d) of each batch so far, float32 on the CPU.
    """

    def __init__(self, network: nn.Module, read: Callable[[], Tensor]) -> None:
        super().__init__()
        self.network, self.read = network, read
        self.positions: list[Tensor] = []
        self.features: list[Tensor] = []

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Keep the features of a batch of images and their positions."""
        images, positions = batch
        self.network(images)
        self.features.append(self.read().detach().float().cpu())
        self.positions.append(positions.cpu())


def retrieve(engine: Engine, trainer: Trainer, network: nn.Module) -> Accuracy:
    """How well test images find their like; processes share the images and the queries.

    Args:
        engine: Whose data, and whose other processes.
        trainer: A fresh one.
        network: The network.

    Raises:
        ThinetError: If the network has no feature, or no image has its like among the others.
    """
    features, there = _embed(engine, trainer, network)
    wanted = _among(engine.data.retrieval(), there)
    mine = replace(wanted, query=wanted.query[engine.rank :: engine.world])
    found = torch.empty(len(wanted.query), 4, dtype=torch.float64)
    for rank, part in enumerate(engine.gather(search(features, mine))):
        found[rank :: engine.world] = part
    known = found[~found.isnan().any(dim=1)]
    if not len(known):
        raise ThinetError(
            "no test image has its like among those that are looked through: type "
            "evaluate=classification, or give a data set with several test images of a class."
        )
    return Accuracy(*known.mean(dim=0).tolist())


def _embed(engine: Engine, trainer: Trainer, network: nn.Module) -> tuple[Tensor, Tensor]:
    """Features (N, d) of all test images, on the engine's device, and which could be read."""
    data, device = engine.data, engine.device
    weight = next(network.parameters())
    feature = find_feature(network, data.examples().to(weight.device))
    data.numbered = True
    try:
        with reading(network, feature) as read:
            embedder = Embedder(network, read)
            call(trainer, trainer.test, embedder, datamodule=data, verbose=False)
    finally:
        data.numbered = False
    count = len(data.retrieval().ids)
    features = torch.zeros(count, feature.length, device=device)
    there = torch.zeros(count, device=device)
    positions = torch.cat(embedder.positions)
    features[positions.to(device)] = torch.cat(embedder.features).to(device)
    there[positions.to(device)] = 1
    if engine.world > 1:  # each has the rows of its own images, and zeros elsewhere
        torch.distributed.all_reduce(features)
        torch.distributed.all_reduce(there)
    return features, there.cpu() > 0


def _among(wanted: Retrieval, there: Tensor) -> Retrieval:
    """Only what could be read looks, and is looked through."""
    query, gallery = (part[there[part]] for part in (wanted.query, wanted.gallery))
    return replace(wanted, query=query, gallery=gallery)

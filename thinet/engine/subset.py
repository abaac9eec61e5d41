"""Measuring many variants of one network on the same images, in the time that takes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thinet.base.seeding import derive_seed
from thinet.datasets.images import ImageView
from thinet.datasets.split import balanced_subset
from thinet.engine.engine import Engine
from thinet.engine.repeated import Repeated
from thinet.surgery import evaluating

BATCH, CPU_BATCH = 256, 32
"""Images a forward pass: on a CPU the activations should fit its cache."""


class SubsetEvaluation:
    """Validation images, and what the full network says of each.

    Args:
        engine: Gives the images and the device; processes share the images out among them.
        limit: At most so many images, classes taking turns; None for all.
    """

    def __init__(self, engine: Engine, limit: int | None) -> None:
        self._engine = engine
        whole = engine.data.val_dataloader().dataset
        assert isinstance(whole, ImageView)
        labels = whole.labels
        per_class = len(labels) if limit is None else -(-limit // max(len(set(labels)), 1))
        chosen = balanced_subset(labels, per_class, derive_seed(engine.seed, "probe"))[:limit]
        self.images = len(chosen)
        """How many there are, over all processes."""
        mine = whole.positions[chosen[engine.rank :: engine.world]]
        size = CPU_BATCH if engine.device.type == "cpu" else BATCH
        self._batches = Repeated(engine, ImageView(whole.images, mine, whole.transform), size)
        self._reference: list[Tensor] = []

    def set_reference(self, full: nn.Module) -> None:
        """Remember the outputs that variants are compared with."""
        self._reference = [output.log_softmax(1) for output, _ in self._outputs(full)]

    def measure(self, network: nn.Module) -> dict[str, float]:
        """How a variant does.

        Args:
            network: On the engine's device; run in ``eval()`` mode and left as it was.

        Returns:
            ``top1`` and ``top5`` as fractions, and ``divergence``: the mean Kullback-Leibler
            divergence of its class probabilities from those of the reference, in nats. It sees
            changes long before a class changes, and those of several layers about add up.
        """
        sums = torch.zeros(4, dtype=torch.float64)
        for place, (output, labels) in enumerate(self._outputs(network)):
            best = output.topk(min(5, output.shape[1]), dim=1).indices == labels[:, None]
            known, own = self._reference[place], output.log_softmax(1)
            apart = F.kl_div(own, known, reduction="sum", log_target=True)
            sums += torch.tensor(
                [len(labels), int(best[:, 0].sum()), int(best.sum()), float(apart)],
                dtype=torch.float64,
            )
        if self._engine.world > 1:
            shared = sums.to(self._engine.device)
            torch.distributed.all_reduce(shared)
            sums = shared.cpu()
        count, first, fifth, apart_sum = sums.tolist()
        return {
            "top1": first / count,
            "top5": fifth / count,
            "divergence": max(0.0, apart_sum / count),
        }

    @torch.no_grad()
    def _outputs(self, network: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits, in float64 on the CPU, and labels, batch by batch."""
        device = self._engine.device
        with evaluating(network):
            for images, labels in self._batches:
                yield network(images.to(device)).double().cpu(), labels

"""How often a network that is at hand errs on images that are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from thinet.models.classifier import logits_in

Batch = tuple[Tensor, Tensor]


@torch.no_grad()
def top1_error(network: nn.Module, batches: Iterable[Batch]) -> float:
    """The fraction of images whose class a network in ``eval()`` mode does not see."""
    device = next(network.parameters()).device
    wrong = count = 0
    for images, labels in batches:
        found = logits_in(network(images.to(device))).argmax(1)
        wrong += int((found != labels.to(device)).sum())
        count += len(labels)
    return wrong / count

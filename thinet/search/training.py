"""Training a PruningNet: other widths for every batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from thinet.base.errors import ThinetError
from thinet.models.classifier import logits_in
from thinet.search.hypernet import PruningNet
from thinet.search.settings import Course
from thinet.widths.space import Genes, Space

Tell = Callable[[str], object]


def drawn(space: Space, rng: np.random.Generator) -> Genes:
    """Every gene evenly and by itself."""
    return tuple(rng.integers(0, len(space.scales), space.size).tolist())


def train_(
    net: PruningNet,
    batches: Iterable[tuple[Tensor, Tensor]],
    course: Course,
    seed: int,
    tell: Tell | None = None,
) -> None:
    """Train in place, on the device where it is.

    Args:
        net: In any mode; left in ``eval()``.
        batches: Images and labels, gone through once an epoch.
        course: See there.
        seed: Of the widths.
        tell: Takes a line an epoch.

    Raises:
        ThinetError: If the loss leaves the finite numbers.
    """
    rng = np.random.default_rng([seed, 1])
    device = next(net.parameters()).device
    optimizer = torch.optim.SGD(
        net.parameters(), course.lr, momentum=0.9, weight_decay=course.weight_decay
    )
    net.train()
    steps: int | None = None
    for epoch in range(course.epochs):
        losses, done = [], 0
        for images, labels in batches:
            part = done / steps if steps else 0.0  # of the first epoch nobody knows the length
            for group in optimizer.param_groups:
                group["lr"] = course.lr * (1 - min(epoch + part, course.epochs) / course.epochs)
            logits = logits_in(net(images.to(device), drawn(net.space, rng)))
            loss = F.cross_entropy(
                logits, labels.to(device), label_smoothing=course.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
            done += 1
        steps = done
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise ThinetError(
                f"the hypernetwork's loss is {mean} in epoch {epoch + 1}: pass a smaller rate, for "
                f"example course=Course(lr={course.lr / 10:g})."
            )
        if tell is not None:
            tell(f"hypernetwork: epoch {epoch + 1} of {course.epochs}, loss {mean:.3f}")
    net.eval()

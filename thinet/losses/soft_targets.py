"""Soft targets: the student learns the teacher's probabilities."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from thinet.losses.precision import in_full
from thinet.surgery import without_autocast


@without_autocast
def soft_targets(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, the mean over the batch.

    The factor keeps the size of the gradients when the temperature changes. Computed in float32 at
    least, whatever the precision of the arguments; no gradient reaches the teacher.

    Source: Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2.

    Args:
        student: Logits ``(N, K)``.
        teacher: Logits ``(N, K)``.
        temperature: ``T``, positive.

    Returns:
        A scalar.

    Raises:
        ValueError: If the shapes differ or ``T`` is not positive.
    """
    if student.shape != teacher.shape or student.dim() != 2:
        raise ValueError(f"logits of {tuple(student.shape)} and {tuple(teacher.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} is not positive")
    own = F.log_softmax(in_full(student) / temperature, dim=1)
    theirs = F.log_softmax(in_full(teacher.detach()) / temperature, dim=1)
    return temperature**2 * F.kl_div(own, theirs, reduction="batchmean", log_target=True)

"""How good widths are: the error of the generated network, its statistics estimated anew."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from thinet.metrics.top1 import Batch, top1_error
from thinet.search.hypernet import PruningNet
from thinet.surgery import recalibrate_
from thinet.widths.space import Genes

ADVICE = "take a smaller learning rate for what makes the weights"
FEWEST = 30
"""Validation images below which an error says nothing: its standard error is 9 points."""


@torch.no_grad()
def judge(
    net: PruningNet, genes: Genes, images: Iterable[Tensor], validation: Iterable[Batch]
) -> float:
    """The top-1 error of the network at some widths, in [0, 1].

    Weights are generated once. The statistics of BatchNorm are means over all ``images``: with the
    usual momentum of 0.1, 20 batches leave 12 % of where they began (fact of the authors' users,
    whose accuracies were near chance).

    Args:
        net: Left as it was, statistics too.
        genes: The widths.
        images: Batches to estimate statistics on, where the network is.
        validation: Batches of images and labels that nothing was trained on.
    """
    network = net.alone(genes)
    recalibrate_(network, images, advice=ADVICE)
    return top1_error(network.eval(), validation)


def standard_error(count: int) -> float:
    """Of an error rate near a half, the largest there is, over so many images."""
    return float(0.5 / count**0.5)

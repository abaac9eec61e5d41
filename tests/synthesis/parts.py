"""Networks and settings that tests of this folder share."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn

from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.synthesis.settings import Losses
from thinet.synthesis.updates import Turn

EPOCHS = 2
PHASE = Phase(EPOCHS, 0.02, "cosine")
FIRST = Turn(PHASE, Training(partial(torch.optim.Adam, lr=1.0)))
SECOND = Turn(PHASE, Training(partial(torch.optim.SGD, lr=1.0, momentum=0.9), clip_norm=1.0))
EVERYTHING = Losses(one_hot=0.7, activation=0.2, entropy=3.0, batchnorm=0.5, adversarial=0.4)
"""Every term, none with weight 1."""


def trained_like(seed: int, width: int = 6) -> nn.Module:
    """A network with BatchNorms that have seen something; dropout shows whether it is at rest."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(width * 9, 10),
        )  # fmt: skip
        for one in network.modules():
            if isinstance(one, nn.BatchNorm2d):
                nn.init.normal_(one.running_mean, std=0.3)
                nn.init.uniform_(one.running_var, 0.5, 2.0)
        nn.init.normal_(network[-1].weight, std=0.5)
    return network


def calm(network: nn.Module) -> nn.Module:
    """A copy at rest."""
    return copy.deepcopy(network).eval().requires_grad_(False)


def equal(left: nn.Module, right: nn.Module) -> bool:
    """Whether two modules hold the same bits."""
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)

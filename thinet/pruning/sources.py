"""Which images cuts are chosen on, and which the network recovers on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thinet.base.seeding import derive_seed
from thinet.engine.engine import Engine
from thinet.run.session import Session
from thinet.run.settings import Settings
from thinet.run.setup import Setup
from thinet.training.images import ImageSource, Supply, Uncut, find_source
from thinet.training.source import on_paper


@dataclass(frozen=True)
class Supplies:
    """Images at hand.

    Attributes:
        calibration: For choices.
        finetuning: For recovery.
    """

    calibration: Supply
    finetuning: Supply


@dataclass(frozen=True)
class Sources:
    """Where images come from.

    Attributes:
        calibration: Those that choices are made on.
        finetuning: Those that the network recovers on.
    """

    calibration: ImageSource
    finetuning: ImageSource

    @classmethod
    def read(cls, settings: Settings) -> Sources:
        """From ``calibration.source`` and ``finetune.source``."""
        name, other = settings["calibration.source"], settings["finetune.source"]
        first = find_source(settings, name)
        return cls(first, first if other == name else find_source(settings, other))

    @property
    def are_drawn(self) -> bool:
        """Whether any are drawn, which takes the network as it was before the cuts."""
        return self.calibration.is_drawn or self.finetuning.is_drawn

    def check(self, setup: Setup) -> None:
        """Try on paper, before any long work.

        Raises:
            ThinetError: In one sentence, if images cannot be drawn as asked.
        """
        if self.are_drawn:
            network, images = on_paper(setup)
            self.calibration.check(setup, network, images)
            self.finetuning.check(setup, network, images)

    def examples(self, setup: Setup) -> Tensor:
        """Two images to try cuts on, ``(2, C, H, W)``: any will do, so none is read for nothing."""
        if not self.calibration.is_drawn:
            return setup.data.examples()
        random = torch.Generator().manual_seed(derive_seed(setup.seed, "examples"))
        return torch.randn(2, *setup.data.input_shape, generator=random)

    def begin(self, session: Session[Any], uncut: Uncut, counted: bool) -> Supplies:
        """Make all images ready; see :meth:`ImageSource.begin`."""
        setup, engine = session.setup, session.engine
        first = self.calibration.begin(setup, engine, uncut, counted)
        if self.finetuning is self.calibration:
            return Supplies(first, first)
        return Supplies(first, self.finetuning.begin(setup, engine, uncut, counted))


def calibrating(source: ImageSource, setup: Setup, engine: Engine, network: nn.Module) -> Supply:
    """Images for choices on a network that is never changed.

    Args:
        source: Where they come from.
        setup: Of the run.
        engine: Of the run.
        network: Trained, on any device; on the CPU afterwards if images are drawn for it.
    """

    def uncut() -> nn.Module:
        return network.cpu()

    return source.begin(setup, engine, uncut, counted=False)

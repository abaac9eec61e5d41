"""Where the images come from that cuts are chosen on, and that a network recovers on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from thinet.datasets.calibration import CalibrationImages
from thinet.engine.engine import Engine
from thinet.engine.phases import Phase
from thinet.engine.settings import Accuracy, Training
from thinet.run.settings import Settings, named
from thinet.run.setup import Setup
from thinet.training.learning import Learning

IMAGES = "images"
"""The data set's own; any other name is one of the group ``synthesis``."""
PLACE = "synthesis.build"
Uncut = Callable[[], nn.Module]
"""Gives the trained network as it was before any cut, on the CPU, to do with as one likes."""


class Fitting(Protocol):
    """Trains a network in place; see :meth:`thinet.training.learning.Learning.fit`."""

    def fit(  # noqa: D102
        self,
        engine: Engine,
        network: nn.Module,
        phases: Sequence[Phase],
        training: Training,
        key: str,
        folder: Path,
        title: str | None = None,
    ) -> Accuracy: ...


class Supply(ABC):
    """Images at hand."""

    @abstractmethod
    def calibration(self, batch: int) -> CalibrationImages:
        """The images that choices are made on, the same on every process.

        Args:
            batch: Images that are decoded or drawn at a time, where that does not change them.
        """

    @abstractmethod
    def fitting(self, learning: Learning) -> Fitting:
        """What recovers a network.

        Args:
            learning: How it is trained on the images of the data set: its teacher, if there is
                one, is that of other images too.
        """


class ImageSource(ABC):
    """Where images come from; made from the configuration by :meth:`configure`.

    Attributes:
        is_drawn: Whether they come from elsewhere than the data set.
    """

    is_drawn: bool = True

    @classmethod
    @abstractmethod
    def configure(cls, settings: Settings, name: str) -> ImageSource:
        """The source with the settings of a run.

        Args:
            settings: Of the run.
            name: What stands in ``calibration.source`` or ``finetune.source``.
        """

    @abstractmethod
    def check(self, setup: Setup, network: nn.Module, images: Any) -> None:
        """Try on paper what can be tried: no data, no training.

        Args:
            setup: Of the run.
            network: That the run begins with, on paper.
            images: Two of its images, on paper.

        Raises:
            ThinetError: In one sentence, if it cannot be done.
        """

    @abstractmethod
    def begin(self, setup: Setup, engine: Engine, uncut: Uncut, counted: bool) -> Supply:
        """Make images ready: a generator is trained, or taken up from another run.

        Args:
            setup: Of the run.
            engine: Trains.
            uncut: The network that images are drawn for.
            counted: Whether the run has counted the steps of that training already.
        """


@dataclass(frozen=True)
class OfDataSet(ImageSource):
    """The data set's own images and labels."""

    is_drawn = False

    @classmethod
    def configure(cls, settings: Settings, name: str) -> OfDataSet:
        """Nothing to read."""
        return cls()

    def check(self, setup: Setup, network: nn.Module, images: Any) -> None:
        """Nothing to try."""

    def begin(self, setup: Setup, engine: Engine, uncut: Uncut, counted: bool) -> Supply:
        """They are there."""
        return _Own(engine)


@dataclass(frozen=True)
class _Own(Supply):
    engine: Engine

    def calibration(self, batch: int) -> CalibrationImages:
        return self.engine.calibration(batch)

    def fitting(self, learning: Learning) -> Fitting:
        return learning


def find_source(settings: Settings, name: str) -> ImageSource:
    """The source of a name.

    Raises:
        ThinetError: If its settings make no sense.
    """
    if name == IMAGES:
        return OfDataSet()
    kind, _ = named(settings[PLACE], PLACE, ImageSource)
    found: ImageSource = kind.configure(settings, name)
    return found

"""What a method is: settings of its own, and how it turns a network into an outcome."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, Self, TypeVar

from torch import nn

from thinet.engine.engine import Engine
from thinet.run.result import Outcome
from thinet.run.session import Session
from thinet.run.settings import Settings
from thinet.run.setup import Setup

P = TypeVar("P")
L = TypeVar("L")

Trained = Callable[[], tuple[Engine, nn.Module]]
"""Makes an engine and the network that a run begins with, trained if it has to be."""


class Method(ABC, Generic[P, L]):
    """A way to make a network smaller, or to learn something about one.

    A frozen dataclass of typed settings, made from the configuration by :meth:`configure`. Which
    parts of the configuration it may read stands in its yaml, ``conf/method/<name>.yaml``: they
    alone are part of a run's identity, its name and its record.

    Type parameters: ``P``, what it has to remember to resume; ``L``, its plan.

    Attributes:
        remembers: The dataclass of what it has to remember; made without arguments it is a
            beginning.
    """

    remembers: ClassVar[type[Any]]

    @classmethod
    @abstractmethod
    def configure(cls, settings: Settings) -> Self:
        """The method with the settings of a run.

        Raises:
            ThinetError: In one sentence, if they make no sense.
        """

    def without_images(self) -> str | None:
        """Why it cannot do without images and what to type, where the data set has none.

        Returns:
            A sentence without its full stop; None if it can.
        """
        return (
            f"method={type(self).__name__.lower()} looks at images, and dataset=none has none: "
            "type a data set, for example dataset=digits, or method=datafree teacher=<folder of a "
            "finished run>"
        )

    @abstractmethod
    def plan(self, setup: Setup, progress: P) -> L:
        """Work out on paper what will be done, before any long work: no data, no arithmetic.

        Raises:
            ThinetError: In one sentence, if it cannot be done.
        """

    @abstractmethod
    def show(self, plan: L) -> None:
        """Print a plan."""

    def preview(self, setup: Setup, trained: Trained) -> None:
        """Print what a run would do, for ``dry_run=true``.

        Args:
            setup: Of the run.
            trained: For methods whose plan depends on the trained network.
        """
        self.show(self.plan(setup, self.remembers()))

    @abstractmethod
    def run(self, session: Session[P], plan: L) -> Outcome:
        """Do it; what an earlier attempt has finished is not repeated.

        The network that the run leaves is saved below ``session.folder``.
        """

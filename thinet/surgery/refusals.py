"""Modules that say themselves what must not be done to them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn

from thinet.base.errors import ThinetError


@runtime_checkable
class RefusesPruning(Protocol):
    """A module whose filters cannot be removed any more."""

    def why_not_pruned(self) -> str:
        """The reason and what to do instead, the end of a sentence."""


@runtime_checkable
class RefusesTraining(Protocol):
    """A module that cannot learn, with all that lies before it."""

    def why_not_trained(self) -> str:
        """The reason and what to do instead, the end of a sentence."""


def check_prunable(network: nn.Module) -> None:
    """Refuse a network with a module that refuses to be pruned.

    Raises:
        ThinetError: Naming the first.
    """
    for path, module in network.named_modules():
        if isinstance(module, RefusesPruning):
            raise ThinetError(
                f"{path or 'the network'} cannot be pruned, because {module.why_not_pruned()}."
            )


def check_trainable(network: nn.Module) -> None:
    """Refuse a network with a module that refuses to be trained.

    Raises:
        ThinetError: Naming the first.
    """
    for path, module in network.named_modules():
        if isinstance(module, RefusesTraining):
            raise ThinetError(
                f"{path or 'the network'} cannot be trained, because {module.why_not_trained()}."
            )

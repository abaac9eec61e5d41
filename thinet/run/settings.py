"""The part of a configuration that a method reads, as typed objects."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, TypeVar, cast

from thinet.base.allowlist import find_class, packages_of
from thinet.base.errors import ThinetError, first_line
from thinet.base.records import JSON, Config
from thinet.base.values import shown
from thinet.engine.phases import Phase
from thinet.engine.settings import Training

T = TypeVar("T")


class Settings:
    """A configuration, of which only some keys may be read.

    What a method does not name among its ``reads`` is not part of the run's identity, so reading it
    would make different runs pass for the same: it is refused.

    Args:
        config: All of it, as plain containers.
        reads: Groups and keys at the top that may be read.

    Attributes:
        seed: Of the run.
    """

    def __init__(self, config: Mapping[str, JSON], reads: Collection[str]) -> None:
        self._config, self._reads = config, frozenset(reads)
        self.seed = cast(int, config["seed"])

    def __getitem__(self, path: str) -> Any:
        """The value at a dotted path.

        Raises:
            ThinetError: If it is not among what may be read.
        """
        found: Any = self._config
        first = path.partition(".")[0]
        if first not in self._reads:
            raise ThinetError(
                f"{first} is not among method.reads, although this method reads it: leave "
                "method.reads as the method's yaml has it, or add it there."
            )
        for key in path.split("."):
            found = found[key]
        return found

    def may_read(self, key: str) -> bool:
        """Whether a group or key at the top may be read."""
        return key in self._reads

    def without(self, path: str, *keys: str) -> dict[str, Any]:
        """The mapping at a path apart from some of its keys."""
        return {str(key): value for key, value in self[path].items() if key not in keys}

    def make(self, path: str, kind: type[T]) -> T:
        """What the node at ``path`` names, made from the node's settings.

        Not by Hydra's ``instantiate``, which also makes whatever is nested in the settings.

        Raises:
            ThinetError: If it is not of that kind, or cannot be made.
        """
        node = self[path]
        made, settings = named(node, path, kind)
        try:
            return cast(T, made(**settings))
        except ThinetError:
            raise
        except Exception as error:  # constructors complain in every way there is
            reason = " ".join(str(error).split()).rstrip(". ")
            raise ThinetError(
                f"{node['_target_']} cannot be made ({reason}): correct its name or its settings; "
                "python run.py --cfg job shows them."
            ) from error

    def phase(self, path: str) -> Phase:
        """Epochs and learning rate at a path."""
        found: Phase = fill(Phase, self[path], path)
        return found

    def training(self, group: str) -> Training:
        """The loss and optimizer of a group, tried on one parameter before any long work."""
        import torch

        place = f"{group}.optimizer"
        kind, settings = named(self[place], place, torch.optim.Optimizer)
        optimizer = partial(kind, **{**settings, "lr": 1.0})
        fill(optimizer, {}, place, [torch.nn.Parameter(torch.zeros(1))])
        found = self[group]
        return Training(
            optimizer,
            found.get("label_smoothing", 0.0),
            found["clip_norm"],
            found.get("head_factor", 1.0),
        )


def named(node: Config, place: str, kind: type) -> tuple[Any, dict[str, Any]]:
    """The class that a node names, of the kind its place expects, and the other settings.

    Raises:
        ThinetError: If it names none of them.
    """
    if not isinstance(node, Mapping):
        raise ThinetError(
            f"{place}={shown(node)} names no class: leave it out, or type {place}._target_=<name>."
        )
    target = node.get("_target_")
    found = find_class(target, kind, packages_of(place), f"{place}._target_")
    return found, {str(key): value for key, value in node.items() if key != "_target_"}


def fill(kind: Any, values: Config, where: str, *args: Any) -> Any:
    """``kind(*args, **values)``, blaming the node ``where`` for values that do not fit.

    Raises:
        ThinetError: If they do not.
    """
    try:
        return kind(*args, **values)
    except (TypeError, ValueError) as error:
        raise ThinetError(
            f"{where}: {first_line(error)}: python run.py --cfg job shows its keys."
        ) from error

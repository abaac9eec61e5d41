"""The one place where methods are found: by the class that their yaml names."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from thinet.base.allowlist import check_target, find_class, packages_of
from thinet.base.records import Config
from thinet.run.identity import draws_images, sources_of

if TYPE_CHECKING:
    from thinet.run.method import Method

_PLACE = "method.build"
_IMAGES = "synthesis.build"
"""What draws images for methods of other families."""


def make_method(config: Config) -> Method[Any, Any]:
    """The method that a configuration names, with its settings; this imports torch.

    Raises:
        ThinetError: If there is no such method, or its settings make no sense.
    """
    from thinet.run.method import Method
    from thinet.run.settings import Settings

    place = f"{_PLACE}._target_"
    target = config["method"]["build"]["_target_"]
    kind: Any = find_class(target, Method, packages_of(_PLACE), place)
    reads = ["method", "model", *config["method"]["reads"]]
    made: Method[Any, Any] = kind.configure(Settings(config, reads))
    return made


def check_method(config: Config) -> list[str]:
    """What the method's family has to say about a configuration, without torch.

    A family has its say in ``checks.find_problems`` of its own package, if it has one.
    """
    reads = config["method"]["reads"]
    if not isinstance(reads, list) or not all(key in config for key in reads):
        return [
            f"method.reads={reads} is not a list of groups and keys of the configuration: leave it "
            "as the method's yaml has it."
        ]
    for key, kind in (("sizes", list), ("usual", dict), ("unless", dict)):
        found = config["method"].get(key, kind())
        if not isinstance(found, kind):
            return [f"method.{key}={found} is refused: leave it as conf/method has it."]
    target = check_target(
        config["method"]["build"]["_target_"], packages_of(_PLACE), f"{_PLACE}._target_"
    )
    problems: list[str] = _say_of(target, "find_problems", config)
    if "synthesis" in reads and sources_of(config) and draws_images(config):
        target = check_target(
            config["synthesis"]["build"]["_target_"], packages_of(_IMAGES), f"{_IMAGES}._target_"
        )
        problems += _say_of(target, "check_synthesis", config)
    return problems


def _say_of(target: str, name: str, config: Config) -> list[str]:
    """What a function in the ``checks`` of the family of a class says; nothing without them."""
    home = ".".join(target.split(".")[:-2])
    checks = f"{home}.checks"
    try:
        module = import_module(checks)
    except ModuleNotFoundError as error:
        if error.name not in (checks, home):
            raise
        return []  # the class itself is looked for with torch at hand
    found: list[str] = getattr(module, name)(config)
    return found

"""The one place where methods are found: by the class that their yaml names."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from thinet.base.allowlist import check_target, find_class, packages_of
from thinet.base.records import Config

if TYPE_CHECKING:
    from thinet.run.method import Method

_PLACE = "method.build"


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
    home = ".".join(target.split(".")[:-2])
    name = f"{home}.checks"
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (name, home):
            raise
        return []  # the class itself is looked for with torch at hand
    problems: list[str] = module.find_problems(config)
    return problems

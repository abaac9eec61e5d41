"""What a composed configuration may ask of Hydra: judged before Hydra acts on it.

Hydra makes callbacks, launchers and log handlers by name, writes where the configuration says and
sets environment variables. Any recipe in ``conf/`` can set all of that, and it may be a stranger's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.base import Container
from omegaconf.errors import OmegaConfBaseException

from thinet.app import expansion
from thinet.app.destinations import check_folders, check_stores, check_typed
from thinet.app.hydra_policy import check_hydra, walk
from thinet.app.yaml_limits import check_yaml
from thinet.base.allowlist import (
    PLACES,
    VARIABLE,
    check_target,
    is_below,
    is_single_name,
    own_packages,
    packages_of,
)
from thinet.base.errors import ThinetError
from thinet.base.values import below
from thinet.run.identity import ABOUT_METHODS

_ENVIRONMENT = re.compile(
    r"(HOME|USER|LOGNAME|HOSTNAME|TMPDIR|SCRATCH|WORK|DATA|CUDA_VISIBLE_DEVICES|(SLURM|THINET)_\w+)"
)
SEVERAL = ("logger",)
"""Groups that take several options at once."""


def install() -> None:
    """Put these checks between the files and Hydra, in this process; twice is once."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_repository import ConfigRepository

    _wrap(ConfigLoaderImpl, "load_configuration", _judged)
    _wrap(ConfigLoaderImpl, "_process_config_searchpath", _search_path_judged)
    _wrap(ConfigRepository, "load_config", _file_judged)
    _wrap(ConfigRepository, "get_group_options", _options_only)
    _wrap(Container, "resolve_parse_tree", expansion.resolve)
    _wrap(Container, "_resolve_node_interpolation", expansion.refer)
    OmegaConf.register_new_resolver("oc.env", _environment, replace=True)
    for name in ("oc.create", "oc.decode"):  # they make nodes out of text, after the checks
        OmegaConf.register_new_resolver(name, _refuse_resolver, replace=True)


def _wrap(owner: type, name: str, around: Callable[..., Any]) -> None:
    inner = getattr(owner, name)
    if getattr(inner, "judged", False):
        return

    @wraps(inner)
    def outer(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(inner, self, *args, **kwargs)

    outer.judged = True  # type: ignore[attr-defined]
    setattr(owner, name, outer)


def _judged(inner: Callable[..., Any], loader: Any, *args: Any, **kwargs: Any) -> DictConfig:
    with expansion.metered():
        cfg: DictConfig = inner(loader, *args, **kwargs)
    check_typed(cfg, kwargs["overrides"] if "overrides" in kwargs else args[1])
    _check_options(cfg, loader.get_group_options)
    check_composed(cfg)
    check_choices(cfg, loader.repository.group_exists)
    check_labels(cfg)
    return cfg


def _options_only(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> list[str]:
    """The options of a group, without the files that its options are made from."""
    return [name for name in inner(*args, **kwargs) if not name.startswith("_")]


def _check_options(cfg: DictConfig, options: Callable[[str], list[str]]) -> None:
    """Refuse ``dataset=_base``, which Hydra would compose: it is no data set by itself."""
    choices = cfg.hydra.runtime.choices if "hydra" in cfg else {}
    for group, option in choices.items():
        if str(option).startswith("_"):
            raise ThinetError(
                f"{group}={option} is what options of {group} have in common and none itself: "
                f"choose among {', '.join(options(str(group).partition('@')[0]))}."
            )


def _search_path_judged(
    inner: Callable[..., Any], loader: Any, config_name: Any, overrides: Any, repo: Any
) -> None:
    loaded = None if config_name is None else repo.load_config(config_path=config_name)
    asked = [] if loaded is None else OmegaConf.select(loaded.config, "hydra.searchpath") or []
    typed = [one.value() for one in overrides if one.get_key_element() == "hydra.searchpath"]
    for path in [*asked, *(path for paths in typed if isinstance(paths, list) for path in paths)]:
        if "://" in str(path) and not str(path).startswith("file://"):
            raise ThinetError(
                f"hydra.searchpath={path} is refused, because looking for files in a Python "
                "package runs it: give a folder, hydra.searchpath=[file:///path/to/conf]."
            )
    inner(loader, config_name, overrides, repo)


def _file_judged(inner: Callable[..., Any], repository: Any, config_path: str) -> Any:
    for source in repository.get_sources():
        if source.scheme() == "file":
            path = Path(source.path) / source._normalize_file_name(config_path)
            if path.is_file():  # Hydra has its own words for a missing one
                check_yaml(path)
    return inner(repository, config_path)


def check_composed(cfg: DictConfig) -> None:
    """Judge a whole configuration.

    Raises:
        ThinetError: With one sentence about the first thing that is refused.
    """
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    hydra = raw.pop("hydra", None)
    expansion.check_expansion(cfg)
    for place, key, value in walk(raw):
        if key == "_target_":
            if not packages_of(place):
                raise ThinetError(
                    f"{place}._target_={str(value)[:60]!r} is refused, because nothing is made "
                    f"at this place: only {', '.join(PLACES)} name classes."
                )
            check_target(value, packages_of(place), f"{place}._target_")
        elif key.startswith("_") and key.endswith("_"):
            raise ThinetError(
                f"{place}.{key} is refused, because Hydra would take it as a command: leave it out."
            )
    _check_method(raw)
    _check_name(cfg)
    check_folders(cfg)
    if hydra is not None:
        check_hydra(cfg, hydra)
        check_stores(raw, hydra)


def check_choices(cfg: DictConfig, is_group: Callable[[str], bool]) -> None:
    """Refuse a list of options where one is wanted: Hydra would merge them, and the last one wins.

    Args:
        cfg: The composed configuration. Hydra notes which option of each group was chosen, but
            nothing of a group that was given a list.
        is_group: Whether there is a group of that name.

    Raises:
        ThinetError: Naming the group.
    """
    if "hydra" not in cfg:
        return
    choices = cfg.hydra.runtime.choices
    nodes = [*(str(key) for key in cfg if key != "hydra"), *(f"hydra/{key}" for key in cfg.hydra)]
    # The options of some groups leave no node of that name.
    overrides: Any = OmegaConf.to_container(cfg.hydra.overrides, resolve=False)
    pairs = [text.partition("=") for part in overrides.values() for text in part]
    listed = [key.strip("+ ").partition("@")[0] for key, _, value in pairs if value[:1] == "["]
    for name in [*nodes, *listed]:
        if name not in (*SEVERAL, *choices) and is_group(name):
            raise ThinetError(
                f"{name} takes one option and was given a list, of which only the last would "
                f"count: type {name}=<one of them>, or several with commas between them and -m to "
                "run one after the other."
            )


def _check_method(raw: Mapping[str, object]) -> None:
    name = below(raw, "method").get("name")
    if isinstance(name, str) and not re.fullmatch(r"[a-z_]+", name):
        raise ThinetError(
            f"method.name={name[:60]!r} is not a method: choose one with method=<name>; "
            "python run.py --help lists them."
        )


def check_labels(cfg: DictConfig) -> None:
    """Refuse an option that goes by another name than its own: records would tell of another one.

    A class of the user's own, in a package that is trusted, may be called as the user likes.

    Args:
        cfg: The composed configuration.

    Raises:
        ThinetError: Naming the group.
    """
    if "hydra" not in cfg or "method" not in cfg:
        return
    choices = cfg.hydra.runtime.choices
    typed: Any = OmegaConf.to_container(cfg.hydra.overrides, resolve=False)
    for text in typed["task"]:
        key = text.lstrip("+~").partition("=")[0]
        if key.startswith(tuple(f"method.{name}" for name in ABOUT_METHODS)):
            raise ThinetError(
                f"{key} is refused, because it says what a method is and not what a run does: "
                "leave it as conf/method has it."
            )
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    method = raw["method"] if isinstance(raw["method"], Mapping) else {}
    for group in ("method", *(method.get("reads") or ())):
        node, choice = raw.get(group), choices.get(group)
        if not isinstance(node, Mapping) or "name" not in node or choice is None:
            continue
        build = node.get("build")
        own = isinstance(build, Mapping) and is_below(str(build.get("_target_")), own_packages())
        if node["name"] != choice and not own:
            raise ThinetError(
                f"{group}.name={str(node['name'])[:60]!r} is not a {group}, and {group}={choice} "
                f"goes by its own name: choose one with {group}=<name>; python run.py --help lists "
                "them."
            )


def _check_name(cfg: DictConfig) -> None:
    if "name" not in cfg:
        return
    try:
        name = str(cfg.name)
    except (OmegaConfBaseException, AttributeError, KeyError, TypeError):
        return  # thinet.app.config.check has the words for it
    if not is_single_name(name):
        raise ThinetError(
            f"name={name[:60]!r} cannot be the name of a run's folder: type a name without "
            "slashes and special characters, and the place with paths.outputs=<folder>."
        )


def _environment(name: Any, *default: Any) -> Any:
    """What ``${oc.env:NAME}`` stands for: no key or password gets into a run's records."""
    if not _ENVIRONMENT.fullmatch(str(name)):
        raise ThinetError(
            f"${{oc.env:{str(name)[:60]}}} is refused, because configurations are written to files "
            'and dashboards: give the value on the command line, key="$NAME".'
        )
    if str(name) not in os.environ and not default:
        raise ThinetError(f"the environment variable {name} is not set: export {name}=<value>.")
    return os.environ.get(str(name), *default)


def _refuse_resolver(*_: Any) -> Any:
    raise ThinetError(
        "${oc.create:...} and ${oc.decode:...} are refused in a configuration: write the value "
        f"itself ({VARIABLE} does not change this)."
    )

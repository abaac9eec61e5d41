"""What a configuration may ask of Hydra's launchers and sweepers: no shell lines, no code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from thinet.base.allowlist import SHELL, VARIABLE, check_target, find_target, is_below, own_packages
from thinet.base.errors import ThinetError
from thinet.base.values import below

_PLUGINS = (
    "hydra._internal.core_plugins",
    "hydra_plugins.hydra_joblib_launcher",
    "hydra_plugins.hydra_submitit_launcher",
    "hydra_plugins.hydra_ray_launcher",
    "hydra_plugins.hydra_optuna_sweeper",
)
_RAY_INIT = {"address", "num_cpus", "num_gpus", "local_mode", "include_dashboard", "log_to_driver",
             "ignore_reinit_error", "logging_level", "object_store_memory"}  # fmt: skip
_RAY_REMOTE = {"num_cpus", "num_gpus", "memory", "max_calls", "max_retries"}
_SAMPLERS = {"TPESampler", "RandomSampler", "GridSampler", "NSGAIISampler", "MOTPESampler",
             "CmaEsSampler"}  # fmt: skip


def _fail(place: str, why: str, instead: str) -> None:
    raise ThinetError(f"{place} is refused, because {why}: {instead}.")


def check_launcher(node: Any) -> None:
    """Judge ``hydra.launcher``.

    Args:
        node: As plain containers, interpolations as they are written.

    Raises:
        ThinetError: If it names another class than a known launcher, holds shell lines or
            anything that may run as such, or has files put elsewhere.
    """
    node = _plugin(node, "hydra.launcher")
    kind = str(node.get("_target_", ""))
    _check_plain(node, "hydra.launcher")
    if SHELL in own_packages():
        return
    if "joblib" in kind:
        _check_joblib(node)
    elif "submitit" in kind:
        _check_submitit(node)
    elif "ray" in kind:
        _check_ray(node, kind)


def check_sweeper(node: Any) -> None:
    """Judge ``hydra.sweeper``; see :func:`check_launcher`."""
    node = _plugin(node, "hydra.sweeper")
    sampler = node.get("sampler")
    storage = node.get("storage")
    rest = {key: value for key, value in node.items() if key != "sampler"}
    _check_plain(rest, "hydra.sweeper")
    if isinstance(sampler, Mapping):
        _check_sampler(sampler, storage)
    elif sampler is not None:
        _fail("hydra.sweeper.sampler", "it is no mapping", "type hydra/sweeper/sampler=tpe")
    space = node.get("custom_search_space")
    if space is not None:
        find_target(space, ("thinet",), "hydra.sweeper.custom_search_space")
    if storage is not None and not re.fullmatch(r"sqlite:///[\w./${}-]+", str(storage)):
        _fail("hydra.sweeper.storage", "only a file of this machine is a storage",
              "type hydra.sweeper.storage=sqlite:///<file>")  # fmt: skip


def _plugin(node: Any, place: str) -> Mapping[str, object]:
    if node is None:
        return {}
    if not isinstance(node, Mapping):
        _fail(place, "it is no mapping", "choose one with sweep=grid, joblib, submitit, ray")
    check_target(_public(node.get("_target_", "")), _PUBLIC, f"{place}._target_")
    return dict(node)


def _public(target: Any) -> Any:
    """Hydra's own plugins lie in modules whose names begin with an underscore."""
    text = str(target)
    return text.replace("hydra._internal.", "hydra.", 1) if is_below(text, _PLUGINS) else target


_PUBLIC = tuple(str(_public(name)) for name in _PLUGINS)


def _check_plain(node: Mapping[str, object], place: str) -> None:
    """No nested target, and no line break that would begin a new line of a job's script."""
    for key, value in node.items():
        where = f"{place}.{key}"
        if key != "_target_" and str(key).startswith("_"):
            _fail(where, "Hydra would take it as a command", "leave it out")
        for text in (key, value):
            if isinstance(text, str) and not text.isprintable():
                _fail(where, "it holds a line break or another control character", "leave it out")
        if isinstance(value, list):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            if "_target_" in value:
                _fail(f"{where}._target_", "nothing is made at this place", "leave it out")
            _check_plain(value, where)


def _check_sampler(node: Mapping[str, object], storage: Any) -> None:
    place = "hydra.sweeper.sampler"
    target = str(node.get("_target_", ""))
    package, _, name = target.rpartition(".")
    if package != "optuna.samplers" or name not in _SAMPLERS:
        _fail(f"{place}._target_", f"{target[:60]!r} is not a sampler of optuna",
              "type hydra/sweeper/sampler=tpe")  # fmt: skip
    if name == "CmaEsSampler" and storage is not None:
        _fail(place, "it unpickles what the storage holds",
              "leave out hydra.sweeper.storage")  # fmt: skip
    _check_plain({k: v for k, v in node.items() if k not in ("_target_", "_partial_")}, place)


_ADVICE = f"start with {VARIABLE}={SHELL} python run.py if you wrote it yourself"


def _check_joblib(node: Mapping[str, object]) -> None:
    place = "hydra.launcher"
    if node.get("backend") not in (None, "loky", "threading", "multiprocessing"):
        _fail(f"{place}.backend", "it could load another package", f"leave it out, or {_ADVICE}")
    if not re.fullmatch(r"(\d{1,6}\s*\*\s*)?n_jobs|all|\d{1,6}", str(node.get("pre_dispatch", 1))):
        _fail(f"{place}.pre_dispatch", "it is a formula that joblib evaluates",
              "type for example hydra.launcher.pre_dispatch=all")  # fmt: skip
    if node.get("temp_folder") is not None:
        _fail(f"{place}.temp_folder", "it has files written elsewhere", f"set TMPDIR, or {_ADVICE}")


def _check_submitit(node: Mapping[str, object]) -> None:
    for key in ("setup", "additional_parameters"):
        if node.get(key):
            _fail(f"hydra.launcher.{key}", "it holds lines that a shell runs", _ADVICE)
    for key, value in node.items():
        text = value if isinstance(value, str) and not key.startswith(("_", "submitit_")) else ""
        if not re.fullmatch(r"(\$\{[\w.]+\}|[\w.,:=+@%\[\]|&*/ -])*", text):
            _fail(f"hydra.launcher.{key}", "it has characters of a shell", _ADVICE)
    folder = str(node.get("submitit_folder", ""))
    if folder and (not folder.startswith("${hydra.sweep.dir}/") or ".." in folder):
        _fail("hydra.launcher.submitit_folder", "it has files written elsewhere",
              f"leave it out, or {_ADVICE}")  # fmt: skip


def _check_ray(node: Mapping[str, object], kind: str) -> None:
    if not kind.endswith(".ray_launcher.RayLauncher"):
        _fail("hydra.launcher._target_", "it sets up machines with shell lines", _ADVICE)
    parts = below(node, "ray")
    for part, known in (("init", _RAY_INIT), ("remote", _RAY_REMOTE)):
        for key in below(parts, part):
            if key not in known:
                _fail(f"hydra.launcher.ray.{part}.{key}", "it can start programs", _ADVICE)
    address = below(parts, "init").get("address")
    if address not in (None, "auto", "local"):
        _fail("hydra.launcher.ray.init.address", "it sends the work to another machine", _ADVICE)

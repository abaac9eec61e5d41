"""What the ``hydra`` node of a configuration may hold: callbacks, launchers, log handlers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from thinet.app.destinations import check_places_of_hydra
from thinet.app.launcher_policy import check_launcher, check_sweeper
from thinet.base.allowlist import find_class, is_single_name
from thinet.base.errors import ThinetError
from thinet.base.values import below

_SETTABLE = re.compile(
    r"((OMP|MKL|OPENBLAS|NUMEXPR)_NUM_THREADS|CUDA_(VISIBLE_DEVICES|DEVICE_ORDER)|TZ"
    r"|NCCL_(DEBUG|SOCKET_IFNAME|IB_DISABLE|P2P_DISABLE)|WANDB_MODE)"
)
SWEEP_CALLBACK = "thinet.sweeps.callback.SweepCallback"
_HANDLERS = ("logging.StreamHandler", "logging.NullHandler")
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")


def walk(node: Any, place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every key below a node, as the dotted place of its mapping, the key and the value."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield place, str(key), value
            yield from walk(value, f"{place}.{key}".removeprefix("."))
    elif isinstance(node, list):
        for value in node:
            yield from walk(value, place)


def check_hydra(cfg: DictConfig, hydra: Mapping[str, object]) -> None:
    """Judge the ``hydra`` node.

    Args:
        cfg: The whole configuration.
        hydra: The node, unresolved.

    Raises:
        ThinetError: With one sentence about the first thing that is refused.
    """
    for part in ("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging"):
        _refuse_references(cfg.hydra.get(part), f"hydra.{part}")
    callbacks = below(hydra, "callbacks")
    for name, node in callbacks.items():
        _check_callback(f"hydra.callbacks.{name}", node)
    # It is also what brings these checks into the processes of a sweep.
    own = any(below(callbacks, name).get("_target_") == SWEEP_CALLBACK for name in callbacks)
    if "paths" in cfg and not own:
        raise ThinetError("hydra.callbacks.sweep is missing: leave it as conf/config.yaml has it.")
    check_launcher(hydra.get("launcher"))
    check_sweeper(hydra.get("sweeper"))
    job = below(hydra, "job")
    runs = job.get("config_name") is not None  # not so for Hydra's own help
    for part in ("job_logging", "hydra_logging") if runs else ():
        _check_logging(hydra.get(part), f"hydra.{part}")
    for name in below(job, "env_set"):
        if not _SETTABLE.fullmatch(str(name)):
            raise ThinetError(
                f"hydra.job.env_set.{name} is refused, because such a variable can make programs "
                "run others: set it in the shell, before python run.py."
            )
    if not is_single_name(str(job.get("name", "run"))):
        raise ThinetError("hydra.job.name is refused: give the run a name with name=<name>.")
    if runs:
        check_places_of_hydra(hydra)


def _refuse_references(node: Any, place: str) -> None:
    """Refuse nodes that are taken from elsewhere in the configuration, past the checks here."""
    if not isinstance(node, (DictConfig, ListConfig)) or node._is_none() or node._is_missing():
        return
    raw: Any = OmegaConf.to_container(node, resolve=False)
    keys: list[Any] = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for key in keys:
        inside = f"{place}.{key}"
        if not OmegaConf.is_interpolation(node, key):
            _refuse_references(node._get_node(key), inside)
            continue
        text = str(raw[key])
        try:
            scalar = not OmegaConf.is_config(node[key])
        except OmegaConfBaseException:  # what Hydra fills in later
            scalar = re.fullmatch(r"\$\{hydra[.:][\w.]+\}", text) is not None or text[-1:] != "}"
        if not scalar:
            raise ThinetError(f"{inside}={text[:60]} is refused: write its value in full.")


def _check_callback(place: str, node: Any) -> None:
    from hydra.experimental.callback import Callback

    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ThinetError(f"{place} is refused: a callback is a mapping with a _target_.")
    for where, key, value in walk(node):
        if key == "_target_" and not where:
            find_class(value, Callback, ("thinet",), f"{place}._target_")
        elif key.startswith("_"):
            raise ThinetError(f"{place}.{where}{key} is refused: leave it out.")


def _check_logging(node: Any, place: str) -> None:
    if node is None:
        return
    for where, key, value in walk(node if isinstance(node, Mapping) else {place: node}):
        inside = f"{place}.{where}.{key}".replace("..", ".")
        wrong = (
            key in ("()", ".")
            or (key == "class" and not (where.startswith("handlers.") and value in _HANDLERS))
            or key == "filename"
            or any("ext://" in str(v) and v not in _STREAMS for v in _leaves(value))
            or any("cfg://" in str(v) for v in _leaves(value))
        )
        if wrong:
            raise ThinetError(
                f"{inside} is refused, because it could run code or write elsewhere: choose "
                f"{place.replace('.', '/')}=none, stdout or disabled."
            )


def _leaves(value: Any) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if not isinstance(one, (Mapping, list))]

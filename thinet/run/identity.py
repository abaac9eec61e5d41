"""What a configuration is called: the names of runs, of their folders and of baselines."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from thinet.artifacts.names import SPEC, WEIGHTS, saved_folder
from thinet.base.errors import ThinetError
from thinet.base.evaluation import CLASSIFICATION
from thinet.base.records import Config
from thinet.widths.ratio import read_ratio

_COMMON = ("model", "dataset", "baseline", "seed", "trainer", "method", "evaluate")
"""What every method reads."""
_USUAL = {"evaluate": CLASSIFICATION}
"""What of it goes without saying."""
_SOURCES, _OWN = ("calibration", "finetune"), "images"
"""Groups that say where images come from, and what goes without saying."""
ABOUT_METHODS = ("reads", "sizes", "usual", "unless", "label")
"""Keys of ``conf/method`` that say how a method is named and told apart."""
_NOT_IDENTITY_OF_TRAINER = {"progress", "checkpoint_minutes"}
_BASELINE = ("model", "dataset", "baseline", "seed", "trainer")


def register_resolvers() -> None:
    """Teach OmegaConf the interpolations of ``conf/config.yaml``."""
    for name, function in (
        ("fingerprint", lambda _root_: fingerprint(_root_)),
        ("drawn", lambda _root_: _drawn(_root_)),
        ("label", lambda _root_: _label(_root_)),
        ("short", _short),
        ("size", lambda _root_: _size(_root_)),
        ("taught", lambda _root_: _taught(_root_)),
        ("teacher", lambda _root_: _teacher(_root_)),
    ):
        OmegaConf.register_new_resolver(name, function, replace=True)


def _short(value: Any) -> str:
    """A ratio or a name as part of a file name."""
    if isinstance(value, (Mapping, DictConfig)) or str(value).startswith("@"):
        return "mixed"
    return re.sub(r"[^\w.+-]", "_", str(value))[:40]


def _size(cfg: DictConfig) -> str:
    """The ratio or the target as part of a file name."""
    target = cfg.get("target")
    return f"r{_short(cfg.ratio)}" if target is None else _short(str(target).replace(":", ""))


def _label(cfg: DictConfig) -> str:
    """What the method says of its settings, as part of a file name."""
    label = str(cfg.method.get("label") or "").strip("-")
    return f"-{label}" if label else ""


def _taught(cfg: DictConfig) -> str:
    """What a network learns from a teacher, and in which batches, as part of a file name."""
    words = [cfg.distill.name, cfg.sampler.name]
    return "".join(f"-{_short(word)}" for word in words if word not in ("none", "uniform"))


def _drawn(cfg: DictConfig) -> str:
    """Where images come from that are not the data set's, as part of a file name."""
    found = dict.fromkeys(sources_of(cfg).values())
    return "".join(f"-{_short(name)}" for name in found if name != _OWN)


def sources_of(config: Config | DictConfig) -> dict[str, str]:
    """Where the images come from that the method chooses and recovers on, by group."""
    reads = config["method"]["reads"]
    return {
        key: str(config[key]["source"])
        for key in _SOURCES
        if key in reads and "source" in (config[key] or {})
    }


def draws_images(config: Config | DictConfig) -> bool:
    """Whether what the group ``synthesis`` says counts."""
    found = sources_of(config)
    return not found or any(name != _OWN for name in found.values())


def _teacher(cfg: DictConfig) -> str:
    """The teacher as part of a file name."""
    teacher = cfg.get("teacher")
    name = teacher.get("name") if isinstance(teacher, (Mapping, DictConfig)) else teacher
    return "" if name is None else _short(Path(str(name)).name)


def run_folder(cfg: DictConfig) -> Path:
    """The folder of the run; a dry run leaves none behind."""
    outputs = Path(cfg.paths.outputs)
    if cfg.get("dry_run") is True:
        return outputs / ".dry_run"
    if str(cfg.get("resume")) not in ("auto", "off"):
        return Path(str(cfg.resume))
    return outputs / str(cfg.name)


def plain(cfg: DictConfig, without: Collection[str] = ("hydra",)) -> dict[str, Any]:
    """The configuration as plain containers, interpolations resolved, without some of its nodes."""
    keys = [key for key in cfg if key not in without]
    return {
        str(key): OmegaConf.to_container(cfg[key], resolve=True)
        if OmegaConf.is_config(cfg[key])
        else cfg[key]
        for key in keys
    }


def part_read(config: Config) -> dict[str, Any]:
    """The part of a configuration that its method reads, and nothing else of it.

    The recipe of a data set is left out, since whatever of it counts stands in the groups that
    refer to it; and so are the numbers of calibration images where no method looks at any.

    Args:
        config: As plain containers.
    """
    reads = config["method"].get("reads") or ()
    found = {key: config[key] for key in config if key in _COMMON or key in reads}
    without = {"recipe", "evaluate"}
    without |= set() if "calibration" in reads else {"calibration_per_class"}
    found["dataset"] = _without(found["dataset"], without)
    if "data" in found["dataset"]:
        found["dataset"]["data"] = _without(found["dataset"]["data"], without)
    found["method"] = _without(found["method"], ABOUT_METHODS)
    if "teacher" in found:
        found["teacher"] = _teacher_of(config)
    if not draws_images(config):
        found.pop("synthesis", None)
    return found


def _teacher_of(config: Config) -> Any:
    """The teacher, if anything is learnt from it; a path as it is usually written."""
    teacher = config.get("teacher")
    asked = "distill" not in config["method"]["reads"]  # there is no learning without one
    asked = asked or config["distill"]["name"] != "none"
    asked = asked or config["sampler"]["name"] == "superclass_uniform"
    return None if not asked else str(Path(teacher)) if isinstance(teacher, str) else teacher


def record_of(config: Config) -> dict[str, Any]:
    """What a run's record shows of a configuration: what its method reads, and where it logs to."""
    return {**part_read(config), "logger": config.get("logger")}


def settings_of(config: Config) -> dict[str, Any]:
    """What the method reads, in short: the option chosen in a group, or the value of a key.

    Groups without a name of their own are left out, and so are keys that are not set or have the
    value that goes without saying.

    Args:
        config: As plain containers.
    """
    usual = {**_USUAL, **(config["method"].get("usual") or {})}
    unless = config["method"].get("unless") or {}
    found = {}
    for key in (*(config["method"].get("reads") or ()), *_USUAL):
        if key == "synthesis" and not draws_images(config):
            continue
        value = _teacher_of(config) if key == "teacher" else config.get(key)
        if isinstance(value, Mapping) and key not in _MAPPINGS:
            value = value.get("name")
        told = _is_unset(config.get(unless.get(key, "")))
        if told and not _is_unset(value) and not _is_usual(value, usual.get(key, ...)):
            found[key] = value
    sources = sources_of(config).items()
    found |= {f"{key}.source": source for key, source in sources if source != _OWN}
    own = _without(config["method"], {*ABOUT_METHODS, "name", "build"})
    return found | {
        f"method.{key}": value
        for key, value in own.items()
        if not _is_unset(value) and value != usual.get(key, ...)
    }


_MAPPINGS = ("ratio", "layer_ratio")
"""Keys that may hold a mapping and are no groups."""


def fingerprint(cfg: DictConfig) -> str:
    """Eight digits that are the same for the same work, whatever it logs to.

    Only what the method reads counts. Settings that are not set (null, false, empty) or have the
    value that goes without saying do not: a key that is added with such a default changes the
    fingerprint of no run that does not use it.
    """
    wanted = {*_COMMON, *(cfg.method.get("reads") or ())}
    content = part_read(plain(cfg, [str(key) for key in cfg if key not in wanted]))
    usual = {**_USUAL, **(cfg.method.get("usual") or {})}
    content = {
        key: value for key, value in content.items() if not _is_usual(value, usual.get(key, ...))
    }
    if "ratio" in content:
        with contextlib.suppress(ThinetError):  # check() reports it
            content["ratio"] = read_ratio(content["ratio"])
        if isinstance(content["ratio"], Mapping):  # an earlier glob goes before a later one
            content["ratio"] = [[key, value] for key, value in content["ratio"].items()]
    for key, source in sources_of(cfg).items():
        if source == _OWN:
            content[key] = _without(content[key], {"source"})
    content["trainer"] = _without(content["trainer"], _NOT_IDENTITY_OF_TRAINER)
    content["dataset"] = _without(content["dataset"], {"max_unreadable"})
    if "data" in content["dataset"]:
        content["dataset"]["data"] = _without(content["dataset"]["data"], {"max_unreadable"})
    teacher = content.get("teacher")
    given = teacher.get("weights") if isinstance(teacher, Mapping) else teacher
    named = (("weights", content["model"]["weights"]), ("teacher_weights", given))
    for key, name in named:  # another file under the same name is another run
        stats = [file.stat() for file in _files(name)]
        if stats:
            content[key] = [[one.st_size, one.st_mtime_ns] for one in stats]
    return _digest(content)


def _files(weights: Any) -> list[Path]:
    """The file of weights that is named, and what says how they are to be read."""
    file = None if weights is None else weights_file(weights)
    if file is None:
        return []
    return [file, file.with_name(SPEC)] if saved_folder(str(weights)) is not None else [file]


def _is_usual(value: Any, usual: Any) -> bool:
    """Whether it is the value, or the option without settings of its own, that is usual."""
    return bool(value == usual or _set(value) == {"name": usual})


def _is_unset(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, (Mapping, list)) and not value)


_PASSED_ON = ("build", "optimizer", "data")
"""Nodes whose settings are arguments of a class: left out is not the same as false there."""


def _set(value: Any) -> Any:
    """A value without the settings in it that are not set."""
    if not isinstance(value, Mapping):
        return value
    parts = {str(key): part if key in _PASSED_ON else _set(part) for key, part in value.items()}
    return {key: part for key, part in parts.items() if not _is_unset(part)}


def _without(node: Config, keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key not in keys}


def weights_file(weights: Any) -> Path | None:
    """The file that ``model.weights`` names, itself or by the folder of a saved network."""
    folder = saved_folder(str(weights))
    file = Path(str(weights)).expanduser() if folder is None else folder / WEIGHTS
    return file if file.is_file() else None


def _digest(content: Any) -> str:
    text = json.dumps(_set(content), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def baseline_fingerprint(config: Config, weights: Path | None) -> str:
    """Names the trained baseline: network, data, recipe, seed and the content of a weights file."""
    content = {key: config[key] for key in _BASELINE}
    model = _without(content["model"], {"paper_layers"})
    # What the baseline takes from the recipe is in its own group; the rest is fine-tuning.
    without = ("calibration_per_class", "num_workers", "recipe", "max_unreadable", "evaluate")
    dataset = _without(content["dataset"], without)
    dataset["data"] = _without(dataset.get("data", {}), without)
    trainer = _without(content["trainer"], _NOT_IDENTITY_OF_TRAINER)
    content |= {"model": model, "dataset": dataset, "trainer": trainer}
    if weights is not None:
        files = _files(content["model"]["weights"]) or [weights]
        content["weights"] = [hashlib.sha256(one.read_bytes()).hexdigest() for one in files]
    return _digest(content)

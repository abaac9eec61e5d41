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

from thinet.artifacts.names import WEIGHTS, saved_folder
from thinet.base.errors import ThinetError
from thinet.widths.ratio import read_ratio

# What does not change a result is not part of a run's identity.
_NOT_IDENTITY = {
    "name", "paths", "logger", "resume", "dry_run", "traceback", "keep_stages", "note", "hydra",
    "inspect",
}  # fmt: skip
_NOT_IDENTITY_OF_TRAINER = {"progress", "checkpoint_minutes"}
_BASELINE = ("model", "dataset", "baseline", "seed", "trainer")


def register_resolvers() -> None:
    """Teach OmegaConf the interpolations of ``conf/config.yaml``."""
    for name, function in (
        ("fingerprint", lambda _root_: fingerprint(_root_)),
        ("short", _short),
        ("size", lambda _root_: _size(_root_)),
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


def fingerprint(cfg: DictConfig) -> str:
    """Eight digits that are the same for the same configuration, whatever it logs to."""
    content = plain(cfg, _NOT_IDENTITY)
    with contextlib.suppress(ThinetError):  # check() reports it
        content["ratio"] = read_ratio(content["ratio"])
    if not content.get("layer_ratio"):  # runs without it are what they were before it existed
        content.pop("layer_ratio", None)
    content["trainer"] = _without(content["trainer"], _NOT_IDENTITY_OF_TRAINER)
    content["dataset"] = _without(content["dataset"], {"max_unreadable"})
    if "data" in content["dataset"]:
        content["dataset"]["data"] = _without(content["dataset"]["data"], {"max_unreadable"})
    weights = weights_file(content["model"]["weights"])
    if weights is not None:  # another file under the same name is another run
        content["weights"] = [weights.stat().st_size, weights.stat().st_mtime_ns]
    return _digest(content)


def _without(node: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key not in keys}


def weights_file(weights: Any) -> Path | None:
    """The file that ``model.weights`` names, itself or by the folder of a saved network."""
    folder = saved_folder(str(weights))
    file = Path(str(weights)) if folder is None else folder / WEIGHTS
    return file if file.is_file() else None


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def baseline_fingerprint(config: Mapping[str, Any], weights: Path | None) -> str:
    """Names the trained baseline: network, data, recipe, seed and the content of a weights file."""
    content = {key: config[key] for key in _BASELINE}
    model = _without(content["model"], {"paper_layers"})
    # What the baseline takes from the recipe is in its own group; the rest is fine-tuning.
    without = ("calibration_per_class", "num_workers", "recipe", "max_unreadable")
    dataset = _without(content["dataset"], without)
    dataset["data"] = _without(dataset.get("data", {}), without)
    trainer = _without(content["trainer"], _NOT_IDENTITY_OF_TRAINER)
    content |= {"model": model, "dataset": dataset, "trainer": trainer}
    if weights is not None:
        content["weights"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    return _digest(content)

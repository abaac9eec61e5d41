"""What can be wrong with a configuration and be seen without torch, all of it at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinet.errors import ThinetError, first_line
from thinet.ratio import check_ratio
from thinet.schedule import Phase
from thinet.target import Target, Widths, recalibration


def find_problems(config: Mapping[str, Any]) -> list[str]:
    """One sentence for each problem in a configuration of plain containers."""
    problems: list[str] = []
    for part in (_check_pruning, _check_training, _check_devices, _check_run):
        try:
            problems += part(config)
        except (KeyError, TypeError, AttributeError) as error:
            problems.append(
                f"a key is missing or not of the expected form ({first_line(error)}): "
                "python run.py --cfg job shows the configuration."
            )
    return problems


def _problem(function: Any, *args: Any, **kwargs: Any) -> list[str]:
    try:
        function(*args, **kwargs)
    except ThinetError as error:
        return [str(error)]
    return []


def _check_pruning(config: Mapping[str, Any]) -> list[str]:
    problems = _problem(check_ratio, config["ratio"])
    layers = config["layers"]
    names = layers if isinstance(layers, list) else [layers]
    if not names or not all(isinstance(name, str) and name for name in names):
        problems.append(
            f"layers={layers} is not a name, a glob or a list of those: type layers=inner, "
            "layers=all or for example layers=[features.0,features.5]."
        )
    problems += _problem(read_widths, config)
    for problem in _problem(recalibration, config["reconstruction"]["recalibrate_bn"]):
        problems.append(f"reconstruction.{problem}")
    return problems


def read_widths(config: Mapping[str, Any]) -> Widths:
    """The budget that a configuration asks for.

    Raises:
        ThinetError: If a part of it is unknown.
    """
    target = config["target"]
    parsed = None if target is None else Target.parse(target)
    return Widths(parsed, config["allocation"], config["round_to"])


def _check_training(config: Mapping[str, Any]) -> list[str]:
    problems = []
    for part in ("stage", "group_end", "final"):
        for problem in _problem(Phase, **config["finetune"][part]):
            problems.append(problem.replace("finetune.stage", f"finetune.{part}"))
    for problem in _problem(baseline_phase, config):
        problems.append(problem.replace("finetune.stage.", "baseline."))
    for group in ("finetune", "baseline"):
        clip = config[group]["clip_norm"]
        if clip is not None and (not _is_number(clip) or clip <= 0):
            problems.append(
                f"{group}.clip_norm={clip} is not a positive number: type {group}.clip_norm=2.0 "
                f"or {group}.clip_norm=null."
            )
        smoothing = config[group]["label_smoothing"]
        if not _is_number(smoothing) or not 0 <= smoothing < 1:
            problems.append(
                f"{group}.label_smoothing={smoothing} is not in [0, 1): "
                f"type {group}.label_smoothing=0.1."
            )
    train = config["baseline"]["train"]
    if train not in ("auto", "always", "never"):
        problems.append(f"baseline.train={train} is unknown: choose auto, always or never.")
    sizes = {
        "finetune.batch_size": config["finetune"]["batch_size"],
        "calibration.batch_size": config["calibration"]["batch_size"],
    }
    for key, size in sizes.items():
        if not _is_whole(size) or size < 1:
            problems.append(f"{key}={size} is not a whole number of at least 1: type {key}=64.")
    return problems


def baseline_phase(config: Mapping[str, Any]) -> Phase:
    """How long and at which rate the baseline is trained."""
    baseline = config["baseline"]
    return Phase(**{key: baseline[key] for key in ("epochs", "lr", "decay", "warmup")})


def _check_devices(config: Mapping[str, Any]) -> list[str]:
    problems = []
    trainer = config["trainer"]
    for key in ("devices", "num_nodes"):
        count = trainer[key]
        if count != "auto" and (not _is_whole(count) or count < 1):
            problems.append(
                f"trainer.{key}={count} is not a whole number of at least 1: type trainer.{key}=1."
            )
    precisions = ("32-true", "bf16-mixed", "16-mixed")
    if trainer["precision"] not in precisions:
        problems.append(
            f"trainer.precision={trainer['precision']} is unknown: choose among "
            f"{', '.join(precisions)}."
        )
    for key, choice in (
        ("accelerator", ("auto", "cpu", "gpu", "cuda")),
        ("progress", ("auto", "bar", "lines", "off")),
    ):
        if trainer[key] not in choice:
            problems.append(
                f"trainer.{key}={trainer[key]} is unknown: choose among {', '.join(choice)}."
            )
    steps = trainer["max_steps_per_epoch"]
    if steps is not None and (not _is_whole(steps) or steps < 1):
        problems.append(
            f"trainer.max_steps_per_epoch={steps} is not a whole number of at least 1: "
            "type trainer.max_steps_per_epoch=null for whole epochs."
        )
    return problems


def _check_run(config: Mapping[str, Any]) -> list[str]:
    problems = []
    if not _is_whole(config["seed"]) or config["seed"] < 0:
        problems.append(f"seed={config['seed']} is not a whole number of at least 0: type seed=0.")
    for key in ("dry_run", "traceback", "keep_stages"):
        if not isinstance(config[key], bool):
            problems.append(f"{key}={config[key]} is neither true nor false: type {key}=true.")
    resume = str(config["resume"])
    if resume not in ("auto", "off") and not (Path(resume) / "state.json").exists():
        problems.append(
            f"resume={resume} is not the folder of a run (it holds no state.json): type "
            "resume=auto, resume=off or the folder of an unfinished run."
        )
    weights = str(config["model"]["weights"])
    is_file = "/" in weights or weights.endswith((".safetensors", ".pth", ".pt", ".ckpt"))
    if is_file and not Path(weights).is_file():
        problems.append(
            f"model.weights={weights} does not exist: give an existing .safetensors or .pth file, "
            "or model.weights=none to train from scratch."
        )
    return problems


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

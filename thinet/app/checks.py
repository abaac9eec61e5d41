"""What can be wrong with a configuration and be seen without torch, all of it at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from thinet.artifacts.names import SPEC, saved_folder
from thinet.base.errors import SettingError, ThinetError, first_line
from thinet.base.values import flag, is_number, is_whole, layer_names, whole
from thinet.pruning.stages import Phase
from thinet.widths.ratio import check_ratio, read_ratio
from thinet.widths.target import Target, Widths, recalibration


def find_problems(config: Mapping[str, Any]) -> list[str]:
    """One sentence for each problem in a configuration of plain containers."""
    problems: list[str] = []
    for part in (_check_pruning, _check_training, _check_devices, _check_run, _check_sensitivity):
        try:
            problems += part(config)
        except (KeyError, TypeError, AttributeError) as error:
            problems.append(
                f"a key is missing or not of the expected form ({first_line(error)}): "
                "python run.py --cfg job shows the configuration."
            )
    return problems


def _problem(check: Callable[..., object], *args: Any, place: str = "", **more: Any) -> list[str]:
    """What ``check`` raises, about settings below ``place`` if it does not know that itself."""
    try:
        check(*args, **more)
    except SettingError as error:
        return [str(error.at(place) if place else error)]
    except ThinetError as error:
        return [str(error)]
    return []


def _check_pruning(config: Mapping[str, Any]) -> list[str]:
    problems = _problem(lambda: check_ratio(read_ratio(config["ratio"])))
    problems += _problem(layer_names, config["layers"])
    problems += _problem(read_widths, config)
    problems += _problem(read_layer_ratio, config)
    recalibrate = config["reconstruction"]["recalibrate_bn"]
    problems += _problem(recalibration, recalibrate, "reconstruction.recalibrate_bn")
    return problems


def read_widths(config: Mapping[str, Any]) -> Widths:
    """The budget that a configuration asks for.

    Raises:
        ThinetError: If a part of it is unknown.
    """
    target = config["target"]
    parsed = None if target is None else Target.parse(target)
    return Widths(parsed, config["allocation"], config["round_to"])


def read_layer_ratio(config: Mapping[str, Any]) -> dict[int, float]:
    """Ratios by the place of a layer in the plan, as a search gives them.

    Raises:
        ThinetError: If they are none, or other settings speak against them.
    """
    given = config.get("layer_ratio") or {}
    example = "type for example '+layer_ratio.0=0.5' '+layer_ratio.1=0.8'"
    if not isinstance(given, Mapping) or not all(str(place).isdigit() for place in given):
        raise ThinetError(
            f"layer_ratio={given} is no mapping from places in the plan, from 0, to ratios: "
            f"{example}."
        )
    check_ratio({f"layer {place}": ratio for place, ratio in given.items()})
    if given and not is_number(config["ratio"]):
        raise ThinetError(
            "layer_ratio and a ratio by names contradict each other: give the ratios of all "
            "layers in one of them."
        )
    if given and config["allocation"] == "error":
        raise ThinetError(
            "layer_ratio and allocation=error contradict each other: type allocation=uniform."
        )
    return {int(place): ratio for place, ratio in given.items()}


def _check_training(config: Mapping[str, Any]) -> list[str]:
    problems = []
    for part in ("stage", "group_end", "final"):
        place = f"finetune.{part}"
        problems += _problem(partial(Phase, **config["finetune"][part]), place=place)
    problems += _problem(baseline_phase, config, place="baseline")
    for group in ("finetune", "baseline"):
        clip = config[group]["clip_norm"]
        if clip is not None and (not is_number(clip) or clip <= 0):
            problems.append(
                f"{group}.clip_norm={clip} is not a positive number: type {group}.clip_norm=2.0 "
                f"or {group}.clip_norm=null."
            )
        smoothing = config[group]["label_smoothing"]
        if not is_number(smoothing) or not 0 <= smoothing < 1:
            problems.append(
                f"{group}.label_smoothing={smoothing} is not in [0, 1): "
                f"type {group}.label_smoothing=0.1."
            )
    factor = config["baseline"]["head_factor"]
    if not is_number(factor) or factor <= 0:
        problems.append(
            f"baseline.head_factor={factor} is not a positive number: type baseline.head_factor=10 "
            "for a new classifier on old features, or 1."
        )
    train = config["baseline"]["train"]
    if train not in ("auto", "always", "never"):
        problems.append(f"baseline.train={train} is unknown: choose auto, always or never.")
    for group in ("finetune", "calibration"):
        size = config[group]["batch_size"]
        problems += _problem(whole, f"{group}.batch_size", size, "64")
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
        if count != "auto":
            problems += _problem(whole, f"trainer.{key}", count, "1")
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
    if steps is not None and (not is_whole(steps) or steps < 1):
        problems.append(
            f"trainer.max_steps_per_epoch={steps} is not a whole number of at least 1: "
            "type trainer.max_steps_per_epoch=null for whole epochs."
        )
    return problems


def _left_open(node: Any, path: str = "") -> list[tuple[str, str]]:
    """Paths and descriptions of the values that a recipe leaves to the user, ``<like this>``.

    Not OmegaConf's ``???``, which does not replace the value of a group.
    """
    if isinstance(node, Mapping):
        return [found for key in node for found in _left_open(node[key], f"{path}.{key}")]
    is_open = isinstance(node, str) and node.startswith("<") and node.endswith(">")
    return [(path.removeprefix("."), node)] if is_open else []


def _check_run(config: Mapping[str, Any]) -> list[str]:
    problems = [
        f"{key} is not given, and this recipe needs it: type {key}={value}."
        for key, value in _left_open({key: config[key] for key in ("model", "dataset")})
    ]
    problems += _problem(whole, "seed", config["seed"], "0", least=0)
    for key in ("dry_run", "traceback", "keep_stages", "inspect"):
        problems += _problem(flag, key, config[key])
    for key, value in config["paths"].items():
        if not isinstance(value, str) or not value:
            problems.append(
                f"paths.{key}={value} is not a folder: type for example paths.{key}={key}."
            )
    resume = str(config["resume"])
    if resume not in ("auto", "off") and not (Path(resume) / "state.json").exists():
        problems.append(
            f"resume={resume} is not the folder of a run (it holds no state.json): type "
            "resume=auto, resume=off or the folder of an unfinished run."
        )
    epochs = config["method"].get("epochs")
    if epochs is not None and (not is_whole(epochs) or epochs < 1):
        problems.append(
            f"method.epochs={epochs} is not a whole number of at least 1: type for example "
            "method.epochs=20, or method.epochs=null for as many as pruning takes."
        )
    weights = str(config["model"]["weights"])
    is_file = "/" in weights or weights.endswith((".safetensors", ".pth", ".pt", ".ckpt"))
    if is_file and not Path(weights).is_file() and saved_folder(weights) is None:
        wrong = f"holds no {SPEC}" if Path(weights).is_dir() else "does not exist"
        problems.append(
            f"model.weights={weights} {wrong}: give an existing .safetensors or .pth file, the "
            "folder of a finished run, or model.weights=none to train from scratch."
        )
    return problems


def _check_sensitivity(config: Mapping[str, Any]) -> list[str]:
    method = config["method"]
    if method["name"] != "sensitivity":
        return []
    problems = []
    ratios = method["ratios"]
    good = isinstance(ratios, list) and all(is_number(one) and 0 < one < 1 for one in ratios)
    if not good or not ratios or len(set(ratios)) < len(ratios):
        problems.append(
            f"method.ratios={ratios} is not a list of different fractions in (0, 1): type for "
            "example method.ratios=[0.9,0.7,0.5,0.3,0.1]."
        )
    problems += _problem(read_budget, method["budget"])
    problems += _problem(whole, "method.trials", method["trials"], "12", least=0)
    images = method["images"]
    if images is not None and (not is_whole(images) or images < 1):
        problems.append(
            f"method.images={images} is not a whole number of at least 1: type method.images=2000, "
            "or method.images=null for all validation images."
        )
    return problems


def read_budget(text: str) -> Target:
    """The budget of a suggestion, which is worked out and not measured.

    Raises:
        ThinetError: If it is none, or one of latency.
    """
    budget = Target.parse(text, "method.budget")
    if budget.kind == "latency":
        raise ThinetError(
            f"{budget.setting}={text} cannot be suggested for: type "
            f"{budget.setting}=flops:{budget.fraction:g} or "
            f"{budget.setting}=params:{budget.fraction:g}."
        )
    return budget

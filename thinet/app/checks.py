"""What can be wrong with a configuration and be seen without torch, all of it at once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from thinet.app.methods import check_method
from thinet.artifacts.names import SPEC, saved_folder
from thinet.base.errors import first_line, problems_of
from thinet.base.evaluation import EVALUATIONS
from thinet.base.records import Config
from thinet.base.values import flag, is_number, is_whole, whole
from thinet.datasets.sampler_checks import check_sampler
from thinet.engine.lesson import Lesson
from thinet.engine.phases import Phase

DASHBOARDS = ("wandb", "tensorboard", "mlflow")
"""As in :mod:`thinet.engine.logging.dashboards`, which needs torch."""


def find_problems(config: Config) -> list[str]:
    """One sentence for each problem in a configuration of plain containers."""
    problems: list[str] = []
    for part in (check_method, _check_training, _check_learning, _check_devices, _check_run):
        try:
            problems += part(config)
        except (KeyError, TypeError, AttributeError) as error:
            problems.append(
                f"a key is missing or not of the expected form ({first_line(error)}): "
                "python run.py --cfg job shows the configuration."
            )
    return problems


def _check_training(config: Config) -> list[str]:
    problems = []
    reads = config["method"]["reads"]
    for part in ("stage", "group_end", "final") if "finetune" in reads else ():
        place = f"finetune.{part}"
        problems += problems_of(partial(Phase, **config["finetune"][part]), place=place)
    problems += problems_of(baseline_phase, config, place="baseline")
    for group in ("finetune", "baseline") if "finetune" in reads else ("baseline",):
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
    for group in ("finetune", "calibration"):  # both have a say in how images are loaded
        size = config[group]["batch_size"]
        problems += problems_of(whole, f"{group}.batch_size", size, "64")
    return problems


def _check_learning(config: Config) -> list[str]:
    """What ``distill``, ``sampler`` and ``teacher`` say."""
    problems = []
    reads = config["method"]["reads"]
    if "distill" in reads:
        given = {key: value for key, value in config["distill"].items() if key != "name"}
        if config["distill"]["name"] != "none":
            problems += problems_of(partial(Lesson, **given), place="distill")
    if "sampler" in reads:
        problems += check_sampler(config)
    teacher = config.get("teacher") if "teacher" in reads else None
    if isinstance(teacher, Mapping):
        problems += _check_weights("teacher.weights", teacher["weights"])
    elif isinstance(teacher, str):
        if not Path(teacher).expanduser().is_file() and saved_folder(teacher) is None:
            nobody = teacher.lower() in ("none", "null")
            name = teacher if teacher.isidentifier() else "<name>"
            problems.append(
                f"teacher={teacher} is neither the folder of a finished run or saved network nor a "
                f"file of weights: "
                + (
                    "type teacher=null."
                    if nobody
                    else f"for a network by its name type model@teacher={name}."
                )
            )
    elif teacher is not None:
        problems.append(f"teacher={teacher} is no path: type teacher=<folder of a finished run>.")
    return problems


def baseline_phase(config: Config) -> Phase:
    """How long and at which rate the baseline is trained."""
    baseline = config["baseline"]
    return Phase(**{key: baseline[key] for key in ("epochs", "lr", "decay", "warmup")})


def _check_devices(config: Config) -> list[str]:
    problems = []
    trainer = config["trainer"]
    for key in ("devices", "num_nodes"):
        count = trainer[key]
        if count != "auto":
            problems += problems_of(whole, f"trainer.{key}", count, "1")
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


def _check_run(config: Config) -> list[str]:
    problems = [
        f"{key} is not given, and this recipe needs it: type {key}={value}."
        for key, value in _left_open({key: config[key] for key in ("model", "dataset")})
    ]
    problems += problems_of(whole, "seed", config["seed"], "0", least=0)
    if config["evaluate"] not in EVALUATIONS:
        problems.append(
            f"evaluate={config['evaluate']} is unknown: choose {' or '.join(EVALUATIONS)}."
        )
    for key in ("dry_run", "traceback", "keep_steps", "inspect"):
        problems += problems_of(flag, key, config[key])
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
    unknown = [name for name in config["logger"] or {} if name not in DASHBOARDS]
    if unknown:
        problems.append(
            f"logger.{unknown[0]} is no dashboard: choose among {', '.join(DASHBOARDS)}, for "
            "example logger=[wandb,tensorboard]."
        )
    problems += _check_weights("model.weights", config["model"]["weights"])
    return problems


def _check_weights(key: str, given: Any) -> list[str]:
    weights = str(given)
    named = weights.lower() == "none" or weights.upper() == "DEFAULT"
    named = named or weights.upper().startswith("IMAGENET1K_")
    path = Path(weights).expanduser()
    if not named and not path.is_file() and saved_folder(weights) is None:
        wrong = f"holds no {SPEC}" if path.is_dir() else "does not exist"
        return [
            f"{key}={weights} {wrong}: give an existing .safetensors or .pth file, the "
            f"folder of a finished run, or {key}=none to train from scratch."
        ]
    return []

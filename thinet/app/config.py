"""From a Hydra configuration to a setup and a method: checks it, and builds what it names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from thinet.app import processes
from thinet.app.checks import baseline_phase, find_problems
from thinet.app.methods import make_method
from thinet.artifacts.names import saved_folder
from thinet.artifacts.spec import read_spec
from thinet.base.errors import ThinetError, first_line
from thinet.base.records import Config
from thinet.run.identity import baseline_fingerprint, plain, weights_file
from thinet.widths.ratio import read_ratio

if TYPE_CHECKING:
    from thinet.datasets.none import NoImages
    from thinet.run.method import Method
    from thinet.run.settings import Settings
    from thinet.run.setup import NetworkSource, Setup

_COMMON = ("model", "dataset", "baseline", "trainer")
"""What every setup is made of."""


def check(cfg: DictConfig) -> dict[str, Any]:
    """Check everything that can be checked without torch, and report all problems at once.

    Returns:
        The configuration as plain containers.

    Raises:
        ThinetError: With one sentence a problem.
    """
    try:
        config = plain(cfg)
    except OmegaConfBaseException as error:
        raise ThinetError(f"the configuration cannot be resolved: {first_line(error)}.") from error
    problems = find_problems(config)
    if problems:
        numbered = (
            problems
            if len(problems) == 1
            else [f"({place}) {problem}" for place, problem in enumerate(problems, 1)]
        )
        raise ThinetError(" ".join(numbered))
    if "ratio" in config["method"]["reads"]:
        config["ratio"] = read_ratio(config["ratio"])
    return config


def build(config: Config) -> tuple[Setup, Method[Any, Any]]:
    """Build everything a run needs; this imports torch.

    Args:
        config: From :func:`check`.

    Raises:
        ThinetError: If a device, data set or option does not exist.
    """
    from thinet.datasets.module import ImageData
    from thinet.datasets.none import NoImages
    from thinet.engine.settings import Devices
    from thinet.run.settings import Settings, fill
    from thinet.run.setup import Setup
    from thinet.training.evaluation import check_evaluation
    from thinet.training.unseen import check_images

    settings = Settings(config, _COMMON)
    data = settings.make("dataset.data", ImageData)  # type: ignore[type-abstract]
    if isinstance(data, NoImages):
        _adopt(data, config)
    trainer = settings.without("trainer", "name")
    setup = Setup(
        name=config["name"],
        seed=config["seed"],
        source=_source(config, settings),
        data=data,
        image_size=data.image_size,
        devices=fill(Devices, {**trainer, "devices": _device_count(trainer)}, "trainer"),
        teacher=_teacher(config),
        keep_steps=config["keep_steps"],
        inspect=config["inspect"],
        evaluate=config["evaluate"],
    )
    method = make_method(config)
    check_images(setup, method)
    check_evaluation(setup)
    return setup, method


def _adopt(data: NoImages, config: Config) -> None:
    """Take what is not known of images from the saved network that is learnt from, or begun with.

    Raises:
        ThinetError: If it does not say how many classes there are, and neither does the user.
    """
    teacher = config.get("teacher") if "teacher" in config["method"]["reads"] else None
    first = teacher["weights"] if isinstance(teacher, Mapping) else teacher
    for weights in (first, config["model"]["weights"]):
        folder = None if weights is None else saved_folder(str(weights))
        if folder is not None:
            spec = read_spec(folder)
            outputs = spec.builder.arguments.get("num_classes") if spec.builder else None
            data.adopt(
                input_shape=spec.input_shape, classes=spec.classes, mean=spec.mean, std=spec.std,
                num_classes=outputs if isinstance(outputs, int) else None,
            )  # fmt: skip
            break
    data.check()


def _source(config: Config, settings: Settings) -> NetworkSource:
    from thinet.run.setup import NetworkSource

    weights = str(settings["model.weights"])
    mark = baseline_fingerprint(config, weights_file(weights))
    return NetworkSource(
        name=settings["model.name"],
        target=settings["model.build._target_"],
        arguments=settings.without("model.build", "_target_"),
        weights=weights,
        train=settings["baseline.train"],
        phase=baseline_phase(config),
        training=settings.training("baseline"),
        cache=Path(config["paths"]["cache"]) / mark,
    )


def _teacher(config: Config) -> NetworkSource | None:
    """A network like that of ``model``: one of ``conf/model``, a saved one, or weights for it."""
    from thinet.run.settings import Settings

    teacher = config.get("teacher")
    if "teacher" not in config["method"]["reads"] or teacher is None:
        return None
    by_name = isinstance(teacher, Mapping)
    model = teacher if by_name else _saved_model(str(teacher), config["model"])
    found = {**config, "model": model}
    source = _source(found, Settings(found, _COMMON))
    return source if by_name else replace(source, train="never")


def _saved_model(path: str, own: Config) -> dict[str, Any]:
    """What ``conf/model`` would say of a saved network, or of weights for the run's own model."""
    folder = saved_folder(path)
    if folder is None:
        return {**own, "name": Path(path).stem, "weights": path}
    spec = read_spec(folder)
    if spec.builder is None:
        raise ThinetError(
            f"teacher={path} is a network that only its owner can build: give one that thinet "
            "built, or model@teacher=<name> teacher.weights=<file>."
        )
    given = ("num_classes", "image_size")  # of the data set
    arguments = {key: value for key, value in spec.builder.arguments.items() if key not in given}
    return {
        "name": Path(path).name if folder == Path(path).expanduser() / "model" else folder.name,
        "image_size": own["image_size"],
        "weights": path,
        "build": {"_target_": spec.builder.target, **arguments},
    }


def _device_count(trainer: Mapping[str, Any]) -> int:
    import torch

    wanted, there = trainer["devices"], torch.cuda.device_count()
    if trainer["accelerator"] == "cpu":
        return 1 if wanted == "auto" else int(wanted)
    if there == 1:
        there = processes.tasks_on_machine(os.environ)
    if trainer["accelerator"] == "auto" and not there:
        if wanted not in (1, "auto"):
            raise ThinetError(
                f"trainer.devices={wanted}, but this machine has no GPU: type trainer=ddp_cpu "
                f"trainer.devices={wanted} for several CPU processes, or trainer.devices=1."
            )
        return 1
    if not there or (wanted != "auto" and wanted > there):
        asked = "a GPU" if wanted in (1, "auto") else f"{wanted} GPUs"
        raise ThinetError(
            f"trainer.accelerator={trainer['accelerator']} asks for {asked}, but this machine has "
            f"{there}: type {f'trainer.devices={there}' if there else 'trainer=cpu'}."
        )
    return there if wanted == "auto" else int(wanted)

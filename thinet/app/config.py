"""From a Hydra configuration to a job: checks it, and builds what it names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from thinet.app import processes
from thinet.app.checks import baseline_phase, find_problems, read_layer_ratio, read_widths
from thinet.base.allowlist import PLACES, find_class
from thinet.base.errors import ThinetError, first_line
from thinet.pruning.stages import Phase
from thinet.run.identity import baseline_fingerprint, plain, weights_file
from thinet.widths.ratio import read_ratio
from thinet.widths.target import recalibration

if TYPE_CHECKING:
    from thinet.engine.settings import Training
    from thinet.run.setup import Job


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
    config["ratio"] = read_ratio(config["ratio"])
    return config


def build(config: dict[str, Any]) -> Job:
    """Build everything a run needs; this imports torch.

    Args:
        config: From :func:`check`.

    Raises:
        ThinetError: If a device, data set or option does not exist.
    """
    from thinet.engine.settings import Devices
    from thinet.pruning.statistics import Sampling
    from thinet.run.setup import BaselineRecipe, Job, ModelRecipe
    from thinet.widths.choose import Request

    model, finetune, baseline = config["model"], config["finetune"], config["baseline"]
    calibration = dict(config["calibration"])
    trainer = {k: v for k, v in config["trainer"].items() if k != "name"}
    target = dict(model["build"])
    return Job(
        name=config["name"],
        config=config,
        method=config["method"]["name"],
        seed=config["seed"],
        model=ModelRecipe(
            name=model["name"],
            target=target.pop("_target_"),
            arguments=target,
            weights=str(model["weights"]),
        ),
        data=_make(config["dataset"]["data"], "dataset.data"),
        image_size=config["dataset"]["image_size"],
        criterion=_make(config["criterion"]["build"], "criterion.build"),
        reconstruction=_make(config["reconstruction"]["build"], "reconstruction.build"),
        recalibrate_bn=recalibration(config["reconstruction"]["recalibrate_bn"]),
        request=Request(
            layers=config["layers"],
            ratio=config["ratio"],
            widths=read_widths(config),
            paper=tuple(model.get("paper_layers") or ()),
            by_place=read_layer_ratio(config),
        ),
        schedule=config["schedule"]["name"],
        stage=Phase(**finetune["stage"]),
        group_end=Phase(**finetune["group_end"]),
        final=Phase(**finetune["final"]),
        training=_training(config, "finetune"),
        baseline=BaselineRecipe(
            baseline["train"], baseline_phase(config), _training(config, "baseline")
        ),
        batch_size=calibration.pop("batch_size"),
        sampling=_fill(Sampling, {**calibration, "seed": config["seed"]}, "calibration"),
        devices=_fill(Devices, {**trainer, "devices": _device_count(trainer)}, "trainer"),
        cache=Path(config["paths"]["cache"])
        / baseline_fingerprint(config, weights_file(model["weights"])),
        keep_stages=config["keep_stages"],
    )


def _make(node: Mapping[str, Any], place: str) -> Any:
    """What the node at ``place`` names, made from the node's settings.

    Not by Hydra's ``instantiate``, which also makes whatever is nested in the settings.
    """
    kind, settings = _named(node, place)
    try:
        return kind(**settings)
    except ThinetError:
        raise
    except Exception as error:  # constructors complain in every way there is
        reason = " ".join(str(error).split()).rstrip(". ")
        raise ThinetError(
            f"{node['_target_']} cannot be made ({reason}): correct its name or its settings; "
            "python run.py --cfg job shows them."
        ) from error


def _named(node: Mapping[str, Any], place: str) -> tuple[type, dict[str, Any]]:
    """The class that a node names, of the kind its place expects, and the other settings."""
    target = node.get("_target_")
    kind = find_class(target, _kind(place), PLACES[place], f"{place}._target_")
    return kind, {str(key): value for key, value in node.items() if key != "_target_"}


def _kind(place: str) -> type:
    """The base class of what a place of the configuration names."""
    if place.endswith(".optimizer"):
        import torch

        return torch.optim.Optimizer
    if place == "criterion.build":
        from thinet.pruning.criteria import Criterion

        return Criterion
    if place == "reconstruction.build":
        from thinet.pruning.reconstruction import Reconstruction

        return Reconstruction
    from thinet.datasets.module import ImageData

    return ImageData


def _fill(kind: Any, values: Mapping[str, Any], where: str, *args: Any) -> Any:
    """``kind(*args, **values)``, blaming the node ``where`` for values that do not fit."""
    try:
        return kind(*args, **values)
    except (TypeError, ValueError) as error:
        raise ThinetError(
            f"{where}: {first_line(error)}: python run.py --cfg job shows its keys."
        ) from error


def _training(config: Mapping[str, Any], name: str) -> Training:
    """The loss and optimizer of a group, tried on one parameter before any long work."""
    import torch

    from thinet.engine.settings import Training

    group = config[name]
    kind, settings = _named(group["optimizer"], f"{name}.optimizer")
    optimizer = partial(kind, **{**settings, "lr": 1.0})
    _fill(optimizer, {}, f"{name}.optimizer", [torch.nn.Parameter(torch.zeros(1))])
    return Training(
        optimizer,
        group["label_smoothing"],
        group["clip_norm"],
        group.get("head_factor", 1.0),
    )


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

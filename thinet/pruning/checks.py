"""What can be wrong with the settings of a pruning method and be seen without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from thinet.base.errors import ThinetError, problems_of
from thinet.base.records import Config
from thinet.base.values import is_number, is_whole, layer_names, shown, whole
from thinet.widths.ratio import check_ratio, read_ratio
from thinet.widths.target import Target, Widths, recalibration

IMAGES = "images"
SOURCES = (IMAGES, "generated", "noise")
"""Where images may come from: the data set, or the family that the group ``synthesis`` names."""


class Readable(Protocol):
    """A configuration, or what a method may read of one."""

    def __getitem__(self, key: str, /) -> Any: ...


def find_problems(config: Config) -> list[str]:
    """One sentence for each problem in what the chosen method reads of a configuration."""
    reads = config["method"]["reads"]
    problems: list[str] = []
    if "ratio" in reads:
        problems += problems_of(lambda: check_ratio(read_ratio(config["ratio"])))
    problems += problems_of(layer_names, config["layers"])
    if "target" in reads:
        problems += problems_of(read_widths, config)
    else:
        problems += problems_of(whole, "round_to", config["round_to"], "8")
    if "layer_ratio" in reads:
        problems += problems_of(read_layer_ratio, config)
    if "reconstruction" in reads:
        when = config["reconstruction"]["recalibrate_bn"]
        problems += problems_of(recalibration, when, "reconstruction.recalibrate_bn")
    problems += _check_sources(config)
    if "ratios" in config["method"]:
        problems += _check_sensitivity(config["method"])
    if "epochs" in config["method"]:
        problems += _check_epochs(config["method"]["epochs"])
    return problems


def _check_sources(config: Config) -> list[str]:
    """Where images come from."""
    reads, problems = config["method"]["reads"], []
    for group in ("calibration", "finetune"):
        source = config[group]["source"] if group in reads else IMAGES
        if source not in SOURCES:
            problems.append(
                f"{group}.source={shown(source)} is unknown: choose among {', '.join(SOURCES)}."
            )
        elif source != IMAGES and "synthesis" not in reads:
            problems.append(
                f"method={config['method']['name']} trains on the images of the data set: type "
                f"{group}.source={IMAGES}."
            )
    if "finetune" in reads and config["finetune"]["iterations"] is not None:
        iterations = config["finetune"]["iterations"]
        problems += problems_of(whole, "finetune.iterations", iterations, "40")
        if config["finetune"]["source"] == IMAGES:
            problems.append(
                "finetune.iterations counts steps on drawn images, and finetune.source=images "
                "draws none: type finetune.iterations=null, or finetune.source=generated."
            )
    if "finetune" in reads and config["finetune"]["source"] in SOURCES[1:]:
        problems += _check_unlabelled(config)
    return problems


def _check_unlabelled(config: Config) -> list[str]:
    """What takes labels, or the images of a data set, and is asked for with drawn images."""
    problems = []
    if config["sampler"]["name"] != "uniform":
        problems.append(
            f"sampler={config['sampler']['name']} puts labelled images into batches, and "
            f"finetune.source={config['finetune']['source']} draws images without labels: type "
            "sampler=uniform."
        )
    if config["distill"].get("beta"):
        problems.append(
            f"distill={config['distill']['name']} compares features, and recovery on drawn images "
            "learns soft targets alone: type distill=kd, or distill=none."
        )
    return problems


def read_widths(config: Readable) -> Widths:
    """The budget that a configuration asks for.

    Raises:
        ThinetError: If a part of it is unknown.
    """
    target = config["target"]
    parsed = None if target is None else Target.parse(target)
    return Widths(parsed, config["allocation"], config["round_to"])


def read_layer_ratio(config: Readable) -> dict[int, float]:
    """Ratios by the place of a layer in the plan, as a search gives them.

    Raises:
        ThinetError: If they are none, or other settings speak against them.
    """
    given = config["layer_ratio"] or {}
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


def _check_sensitivity(method: Mapping[str, Any]) -> list[str]:
    problems = []
    ratios = method["ratios"]
    good = isinstance(ratios, list) and all(is_number(one) and 0 < one < 1 for one in ratios)
    if not good or not ratios or len(set(ratios)) < len(ratios):
        problems.append(
            f"method.ratios={ratios} is not a list of different fractions in (0, 1): type for "
            "example method.ratios=[0.9,0.7,0.5,0.3,0.1]."
        )
    problems += problems_of(read_budget, method["budget"])
    problems += problems_of(whole, "method.trials", method["trials"], "12", least=0)
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
        left = f"{budget.fraction or 0.5:g}"
        raise ThinetError(
            f"{budget.setting}={text} cannot be suggested for: type "
            f"{budget.setting}=flops:{left} or {budget.setting}=params:{left}."
        )
    return budget


def _check_epochs(epochs: Any) -> list[str]:
    if epochs is None or (is_whole(epochs) and epochs >= 1):
        return []
    return [
        f"method.epochs={epochs} is not a whole number of at least 1: type for example "
        "method.epochs=20, or method.epochs=null for as many as pruning takes."
    ]

"""What can be wrong with the settings of binarisation and be seen without torch."""

from __future__ import annotations

from functools import partial

from thinet.base.errors import problems_of
from thinet.base.records import Config
from thinet.base.values import is_number, layer_names
from thinet.engine.phases import Phase
from thinet.quantization.settings import Quantizer

_GROUP = "binary_training"


def find_problems(config: Config) -> list[str]:
    """One sentence for each problem in what the method reads of a configuration."""
    given = {key: value for key, value in config["quantizer"].items() if key != "name"}
    problems = problems_of(partial(Quantizer, **given), place="quantizer")
    problems += problems_of(layer_names, config["layers"])
    return problems + _check_training(config[_GROUP])


def _check_training(group: Config) -> list[str]:
    problems: list[str] = []
    for part in ("activations", "weights"):
        problems += problems_of(partial(Phase, **group[part]), place=f"{_GROUP}.{part}")
    if not problems and not group["weights"]["epochs"]:
        problems.append(
            f"{_GROUP}.weights.epochs=0 leaves no epoch in which weights are binary: type "
            f"{_GROUP}.weights.epochs=8."
        )
    for key, example in (("weight_bound", "1.0"), ("gamma_floor", "0.01"), ("clip_norm", "2.0")):
        value = group[key]
        if value is not None and (not is_number(value) or value <= 0):
            problems.append(
                f"{_GROUP}.{key}={value} is not a positive number: type {_GROUP}.{key}={example} "
                f"or {_GROUP}.{key}=null."
            )
    smoothing = group["label_smoothing"]
    if not is_number(smoothing) or not 0 <= smoothing < 1:
        problems.append(
            f"{_GROUP}.label_smoothing={smoothing} is not in [0, 1): "
            f"type {_GROUP}.label_smoothing=0.1."
        )
    return problems

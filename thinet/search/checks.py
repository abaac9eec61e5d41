"""What can be wrong with the settings of a search and be seen without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from thinet.base.errors import problems_of
from thinet.base.records import Config
from thinet.base.values import flag, is_number, is_whole, layer_names, shown, whole
from thinet.engine.phases import Phase
from thinet.search.settings import PARTS, PROXY, SEARCH, Evolution, Making, Searching
from thinet.widths.target import Target

UNIFORM = "uniform"
CONTROLS = (UNIFORM,)
_HYPERNETS = ("hypernet", "shared")


def part_of(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings in a group those that are fields of one dataclass."""
    names = {one.name for one in fields(kind)}
    return {key: value for key, value in values.items() if key in names}


def find_problems(config: Config) -> list[str]:
    """One sentence for each problem in what the method reads of a configuration."""
    problems = _check_search(config["search"])
    problems += _check_proxy(config["proxy"])
    problems += problems_of(layer_names, config["layers"])
    if config["target"] is None:
        problems.append(
            "method=metaprune searches within a budget and has none: type for example "
            "target=flops:0.5."
        )
    else:
        problems += problems_of(Target.parse, config["target"])
    problems += _check_method(config["method"])
    return problems + _check_together(config)


def _check_together(config: Config) -> list[str]:
    """Settings that would do nothing beside others."""
    method, problems = config["method"], list[str]()
    if method["table"] is not None and not str(config["target"]).startswith("latency:"):
        problems.append(
            f"method.table={shown(method['table'])} holds latencies, and target={config['target']} "
            "counts none: type method.table=null, or target=latency:0.6."
        )
    if method["start"] == SEARCH and "epochs" not in config["proxy"]:
        problems.append(
            f"method.start=search takes what another run has trained, and proxy="
            f"{config['proxy'].get('name')} trains nothing: type method.start=proxy."
        )
    return problems


def _check_search(group: Mapping[str, Any]) -> list[str]:
    problems = list[str]()
    for kind in (Evolution, Searching):
        problems += problems_of(partial(kind, **part_of(kind, group)), place="search")
    return problems


def _check_proxy(group: Mapping[str, Any]) -> list[str]:
    problems = list[str]()
    if group.get("name") in _HYPERNETS:
        making = part_of(Making, group["build"])
        problems += problems_of(partial(Making, **making), place="proxy.build")
    if "epochs" in group:
        given = {key: group[key] for key in ("epochs", "lr", "decay", "warmup")}
        problems += problems_of(partial(Phase, **given), place="proxy")
        problems += problems_of(whole, "proxy.epochs", group["epochs"], "8")
        smoothing = group["label_smoothing"]
        if not is_number(smoothing) or not 0 <= smoothing < 1:
            problems.append(
                f"proxy.label_smoothing={shown(smoothing)} is not in [0, 1): type "
                "proxy.label_smoothing=0.1."
            )
        clip = group["clip_norm"]
        if clip is not None and (not is_number(clip) or clip <= 0):
            problems.append(
                f"proxy.clip_norm={shown(clip)} is not a positive number: type "
                "proxy.clip_norm=2.0 or proxy.clip_norm=null."
            )
    return problems


def _check_method(method: Mapping[str, Any]) -> list[str]:
    problems = problems_of(flag, "method.train", method["train"])
    controls = method["controls"]
    good = isinstance(controls, list) and all(controls.count(one) == 1 for one in controls)
    if not good or any(one not in CONTROLS for one in controls):
        problems.append(
            f"method.controls={shown(controls)} is no list of controls: choose among "
            f"{', '.join(CONTROLS)}, for example method.controls=[uniform] or method.controls=[]."
        )
    epochs = method["epochs"]
    if epochs is not None and (not is_whole(epochs) or epochs < 1):
        problems.append(
            f"method.epochs={shown(epochs)} is not a whole number of at least 1: type for example "
            "method.epochs=20, or method.epochs=null for as many as the baseline gets."
        )
    table = method["table"]
    if table is not None and not (isinstance(table, str) and Path(table).expanduser().is_file()):
        problems.append(
            f"method.table={shown(table)} is no file: type method.table=<latency.json of a run>, "
            "or method.table=null."
        )
    return problems + _check_start(method["start"], method["of"], method["train"])


def _check_start(start: Any, of: Any, train: Any) -> list[str]:
    if start not in PARTS:
        return [f"method.start={shown(start)} is unknown: choose among {', '.join(PARTS)}."]
    if start == PROXY:
        if of is not None:
            return [
                f"method.of={shown(of)} is a run to go on from, and method.start=proxy starts at "
                "the beginning: type method.start=search, or method.start=training."
            ]
        return []
    if start != SEARCH and train is False:
        return [
            "method.start=training method.train=false leaves nothing to do: type "
            "method.train=true, or method.start=search."
        ]
    if not isinstance(of, str) or not (Path(of).expanduser() / "state.json").is_file():
        return [
            f"method.start={start} goes on from a run, and method.of={shown(of)} is not the folder "
            "of one: type method.of=outputs/<name of a run of method=metaprune>."
        ]
    return []

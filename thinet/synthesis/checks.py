"""What can be wrong with the settings of learning without data and be seen without torch."""

from __future__ import annotations

from functools import partial

from thinet.base.errors import problems_of
from thinet.base.records import Config
from thinet.base.values import is_number, shown
from thinet.engine.phases import Phase
from thinet.synthesis.settings import PARTS, Synthesis

CONTROLS = ("noise",)
_GROUP = "synthesis"


def find_problems(config: Config) -> list[str]:
    """One sentence for each problem in what the method reads of a configuration."""
    problems = check_synthesis(config)
    controls = config["method"]["controls"]
    good = isinstance(controls, list) and all(controls.count(one) == 1 for one in controls)
    if not good or any(one not in CONTROLS for one in controls):
        problems.append(
            f"method.controls={shown(controls)} is no list of controls: choose among "
            f"{', '.join(CONTROLS)}, for example method.controls=[noise] or method.controls=[]."
        )
    if config["teacher"] is None:
        problems.append(
            "method=datafree learns from a teacher, and there is none: type teacher=<folder of a "
            "finished run>, teacher=<weights of this model>, or model@teacher=<name of a model>."
        )
    return problems


def check_synthesis(config: Config) -> list[str]:
    """One sentence for each problem in the group ``synthesis``."""
    group, problems = config[_GROUP], list[str]()
    for name, kind in PARTS.items():
        problems += problems_of(partial(kind, **group[name]), place=f"{_GROUP}.{name}")
    if not problems:
        parts = {name: kind(**group[name]) for name, kind in PARTS.items()}
        problems += problems_of(partial(Synthesis, **parts))
    for who in ("generator", "student"):
        given = {key: group[who][key] for key in ("lr", "decay", "warmup")}
        problems += problems_of(partial(Phase, epochs=1, **given), place=f"{_GROUP}.{who}")
        clip = group[who]["clip_norm"]
        if clip is not None and (not is_number(clip) or clip <= 0):
            place = f"{_GROUP}.{who}.clip_norm"
            problems.append(
                f"{place}={shown(clip)} is not a positive number: type {place}=2.0 or {place}=null."
            )
    return problems

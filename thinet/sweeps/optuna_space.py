"""What a search over configurations asks for: a ratio for each layer that is to be pruned."""

from __future__ import annotations

import json
from typing import Any

from omegaconf import DictConfig

from thinet.app.config import build, check
from thinet.base.errors import ThinetError
from thinet.base.records import Config

LOWEST, STEP = 0.1, 0.05
_counts: dict[str, int] = {}


def layer_ratios(cfg: DictConfig, trial: Any) -> None:
    """The search space of ``sweep=optuna``: how wide each layer is, compared with the others.

    One common factor makes every trial meet the target, see :class:`thinet.widths.choose.Request`.

    Args:
        cfg: The configuration without the values that are searched for.
        trial: Optuna's, which is asked for one ratio a layer.

    Raises:
        ThinetError: If there is no target, without which the widest network would win.
    """
    if any(text.lstrip("+").startswith("layer_ratio") for text in cfg.hydra.overrides.task):
        return  # the user has a search space of their own
    config = check(cfg)
    if config["target"] is None:
        raise ThinetError(
            "sweep=optuna looks for the best widths within a budget: type for example "
            "target=flops:0.5, or hydra.sweeper.custom_search_space=null to search for something "
            "else."
        )
    key = json.dumps({key: config[key] for key in ("model", "layers")}, default=str)
    if key not in _counts:
        _counts[key] = _count_layers(config)
    for place in range(_counts[key]):
        trial.suggest_float(f"+layer_ratio.{place}", LOWEST, 1.0, step=STEP)


def _count_layers(config: Config) -> int:
    from thinet.surgery import trace
    from thinet.training.source import on_paper
    from thinet.widths.choose import Request, choose_groups

    setup, _ = build(config)
    network, images = on_paper(setup)
    paper = tuple(config["model"].get("paper_layers") or ())
    request = Request(config["layers"], paper=paper)
    names, _ = choose_groups(network, trace(network, images[:1]), request, images)
    return len(names)

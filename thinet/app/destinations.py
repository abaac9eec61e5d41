"""Where a configuration has files written, by thinet, by Hydra and by other programs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from thinet.base.errors import ThinetError
from thinet.base.values import below

_PLACES_OF_HYDRA = {
    "run.dir": ".", "output_subdir": None, "sweep.dir": "${paths.outputs}", "sweep.subdir": ".",
}  # fmt: skip
"""As conf/config.yaml has them: Hydra, which writes before it asks, finds nothing to write."""
_LOCAL = re.compile(r"(?!https?://)", re.IGNORECASE)


def check_folders(cfg: DictConfig) -> None:
    """Refuse a configuration that does not say where its files go.

    Raises:
        ThinetError: If so.
    """
    if "paths" not in cfg:
        return  # another application's configuration
    outputs = OmegaConf.select(cfg, "paths.outputs", throw_on_resolution_failure=False)
    if not isinstance(outputs, str) or not outputs.isprintable() or not outputs:
        raise ThinetError(
            f"paths.outputs={outputs} is not a folder: type paths.outputs=outputs or another one."
        )


def check_places_of_hydra(hydra: Mapping[str, object]) -> None:
    """Refuse to let Hydra write.

    Raises:
        ThinetError: If a place of its files is another one than ours.
    """
    for key, own in _PLACES_OF_HYDRA.items():
        group, _, leaf = key.rpartition(".")
        node = below(hydra, group) if group else hydra
        if node.get(leaf) != own:
            raise ThinetError(
                f"hydra.{key}={str(node.get(leaf))[:60]} is refused, because only thinet writes "
                "files, once it has judged the configuration: type paths.outputs=<folder>."
            )


def check_typed(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse a file that pretends to know what was typed: Hydra appends that to what is there.

    Raises:
        ThinetError: If so.
    """
    if "hydra" not in cfg:
        return
    noted: Any = OmegaConf.to_container(cfg.hydra.overrides, resolve=False)
    lines = [str(text) for part in noted.values() for text in part or []]
    if set(noted) != {"hydra", "task"} or Counter(lines) != Counter(overrides):
        raise ThinetError(
            "hydra.overrides is refused in a file, because it says what was typed: leave it out."
        )


def check_stores(raw: Mapping[str, object], hydra: Mapping[str, object]) -> None:
    """Let other programs write to a data base or a folder if the user typed it.

    Raises:
        ThinetError: If a file names it.
    """
    parts = below(hydra, "overrides").values()
    typed = [str(one).lstrip("+") for part in parts if isinstance(part, list) for one in part]
    for place, node, keys in (
        ("logger.mlflow", below(below(raw, "logger"), "mlflow"),
         ("tracking_uri", "artifact_location")),
        ("hydra.sweeper", below(hydra, "sweeper"), ("storage",)),
    ):  # fmt: skip
        for key in keys:
            value = node.get(key)
            if value is None or not _LOCAL.match(str(value)):
                continue
            if not any(text.startswith(f"{place}.{key}=") for text in typed):
                raise ThinetError(
                    f"{place}.{key}={str(value)[:60]} is refused in a file, because it has "
                    f"something of yours written to: type {place}.{key}=... if you want it."
                )

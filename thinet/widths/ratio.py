"""What ``ratio`` means: the fraction of filters that is kept, the paper's r.

Imported before torch, so that a wrong ratio is reported at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinet.base.allowlist import read_regular
from thinet.base.errors import ThinetError, first_line
from thinet.base.files import read_json
from thinet.base.values import is_number, shown

SUGGESTION = "suggestion.yaml"
"""What ``method=sensitivity`` leaves in its run folder: a ratio for each layer."""
_LARGEST = 2**20  # bytes of such a file
_EXAMPLE = "a line for each layer or glob such as 'features.0: 0.5'"


def kept_count(filters: int, ratio: float) -> int:
    """How many of ``filters`` stay at ``ratio``: ``floor(filters * ratio)``, at least 1.

    The paper's code truncates too; the small term keeps 0.29 * 100 from becoming 28.
    """
    return max(1, math.floor(filters * float(ratio) + 1e-9))


def check_ratio(ratio: float | Mapping[str, float]) -> None:
    """Raise :class:`ThinetError` unless every ratio is a number in (0, 1]."""
    values = ratio if isinstance(ratio, Mapping) else {"": ratio}
    for name, value in values.items():
        if not isinstance(name, str):
            raise ThinetError(
                f"ratio has a key {shown(name)} that is no name of a layer: {_EXAMPLE}."
            )
        if not is_number(value) or not 0 < value <= 1:
            place = f" for {name[:100]!r}" if name else ""
            # A list can stand for a great many values, by the aliases of YAML.
            brief = "..." if isinstance(value, (list, dict)) else shown(value)
            raise ThinetError(
                f"ratio={brief}{place} is not a number in (0, 1]: it is the fraction of filters "
                "to keep, for example ratio=0.5."
            )


def read_ratio(ratio: Any) -> Any:
    """What ``ratio=@file`` stands for; any other ratio comes back as it is.

    The file holds a mapping from layers or globs to ratios, as YAML or JSON. The folder of a
    finished run stands for its suggestion (``method=sensitivity``), for the widths that it found
    (``method=metaprune``) or for those that it kept.

    Raises:
        ThinetError: If there is no such file, or it holds no such mapping.
    """
    if not isinstance(ratio, str) or not ratio.startswith("@"):
        return ratio
    path = Path(ratio[1:]).expanduser()
    if path.is_dir():
        if not (path / SUGGESTION).is_file():
            return _kept_by(path)
        path = path / SUGGESTION
    found = _parse(path)
    if not isinstance(found, Mapping) or not found:
        raise ThinetError(f"ratio=@{path} holds no mapping: write {_EXAMPLE}.")
    named = {str(key): value for key, value in found.items()}
    try:
        check_ratio(named)
    except ThinetError as error:
        raise ThinetError(f"in {path}: {error}") from error
    return named


def _parse(path: Path) -> Any:
    import yaml

    try:
        text = read_regular(path, _LARGEST, f"write {_EXAMPLE}").decode()
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except FileNotFoundError as error:
        raise ThinetError(
            f"ratio=@{path} does not exist: give a YAML or JSON file with {_EXAMPLE}."
        ) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ThinetError(
            f"ratio=@{path} cannot be read ({first_line(error)}): write {_EXAMPLE}."
        ) from error


def _kept_by(folder: Path) -> dict[str, float]:
    """The ratios that a finished run ended with, layer by layer."""
    refusal = ThinetError(
        f"ratio=@{folder} is not the folder of a finished run that pruned layers, searched widths "
        "or suggested ratios: give such a folder, or a YAML or JSON file."
    )
    try:
        details = read_json(folder / "result.json")["details"]
        found = [read(details[key]) for key, read in _KEPT.items() if key in details]
    except (ThinetError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise refusal from error
    kept = found[0] if found else {}
    if not kept:
        raise refusal
    return kept


def _after_pruning(details: Any) -> dict[str, float]:
    before: dict[str, int] = {}
    kept: dict[str, float] = {}
    for layer in details[
        "layers"
    ]:  # a layer that was cut twice keeps a fraction of its first width
        first = before.setdefault(layer["layer"], layer["filters_before"])
        kept[layer["layer"]] = layer["filters_after"] / first
    return kept


def _after_search(details: Any) -> dict[str, float]:
    return {layer: row["found"] / row["full"]
            for row in details["widths"] for layer in row["layers"]}  # fmt: skip


_KEPT = {"pruning": _after_pruning, "search": _after_search}
"""How widths are read of what a family has left in ``result.json``."""

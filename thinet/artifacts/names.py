"""The names of a saved network's files, and how to recognise its folder; imported before torch."""

from __future__ import annotations

from pathlib import Path

WEIGHTS, SPEC = "model.safetensors", "spec.json"


def saved_folder(weights: str | Path) -> Path | None:
    """The folder of a saved network that ``model.weights`` names, or None if it names no such.

    Args:
        weights: The folder itself, or that of the run that left it (``outputs/<name>``).
    """
    folder = Path(weights).expanduser()
    return next((one for one in (folder, folder / "model") if (one / SPEC).is_file()), None)

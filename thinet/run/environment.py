"""Where a result comes from: versions and hardware."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

PACKAGES = (
    "thinet", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core", "wandb",
)  # fmt: skip


def environment() -> dict[str, str]:
    """Versions of what matters, the device and the commit."""
    import torch

    device = f"CPU, {os.cpu_count()} cores"
    if torch.cuda.is_available():
        device = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    found = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
        "commit": _commit(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def missing_packages(requirements: Iterable[str] | None = None) -> dict[str, list[str]]:
    """The optional parts of thinet, and the packages that each one still needs.

    Args:
        requirements: As ``importlib.metadata`` gives them; None for those of the installed thinet.
    """
    if requirements is None:
        try:
            requirements = requires("thinet") or []
        except PackageNotFoundError:  # run from a folder of its source
            requirements = []
    found: dict[str, list[str]] = {}
    for text in requirements:
        needed = Requirement(text)
        extra = re.search(r"extra == ['\"]([\w-]+)", str(needed.marker))
        if extra is None or extra[1] == "dev":
            continue
        missing = found.setdefault(extra[1], [])
        try:
            if not needed.specifier.contains(version(needed.name), prereleases=True):
                missing.append(f"{needed.name}{needed.specifier}")
        except PackageNotFoundError:
            missing.append(needed.name)
    return found


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()

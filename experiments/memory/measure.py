"""What this process holds at a moment, and what its run folder does (Linux)."""

from __future__ import annotations

import gc
import logging
import os
import threading
from pathlib import Path


def holding() -> dict[str, float]:
    """Resident memory in MB (1e6 bytes), and what leaks are usually made of, counted."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "resident_mb": pages * os.sysconf("SC_PAGESIZE") / 1e6,
        "objects": len(gc.get_objects()),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "handlers": sum(
            len(one.handlers)
            for one in (logging.root, *logging.root.manager.loggerDict.values())
            if isinstance(one, logging.Logger)
        ),
    }


def on_disk(folder: Path) -> dict[str, float]:
    """Sizes in kB (1000 bytes): the whole run folder, and the files that grow."""
    every = [path for path in folder.rglob("*") if path.is_file()]
    sizes = {"folder_kb": sum(path.stat().st_size for path in every) / 1e3}
    for name in ("state.json", "metrics.csv", "run.log"):
        path = folder / name
        sizes[f"{name.partition('.')[0]}_kb"] = path.stat().st_size / 1e3 if path.exists() else 0.0
    return sizes

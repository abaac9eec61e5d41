"""The most memory that a stretch of work took."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

GPU = "GPU"
PROCESS = "process"
LIFETIME = "process, since its start"
_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Measures the peak from where it is made; there is one stretch at a time.

    On a GPU it is what torch's tensors took on that GPU. On a CPU it is the resident set of this
    process, code and libraries included. Only Linux can forget an earlier peak: elsewhere the
    figure is the largest since the process began, and :attr:`of` says so.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            self.of = GPU
            torch.cuda.init()  # or there is no device yet whose peak could be forgotten
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self.of = PROCESS if forget_peak() else LIFETIME

    def mb(self) -> float | None:
        """The peak so far in MB (1e6 bytes); None where the system does not tell."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 1e6
        return resident_peak_mb() if self.of == PROCESS else _lifetime_peak_mb()


def forget_peak() -> bool:
    """Set the kernel's high-water mark back to what is resident now (Linux, proc(5))."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return resident_peak_mb() is not None


def resident_peak_mb() -> float | None:
    """The kernel's high-water mark of what is resident, in MB (1e6 bytes); None if unknown."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 / 1e6 if found else None


def _lifetime_peak_mb() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6

"""What happened to a run from outside, as sentences: full disks, dead processes, no memory."""

from __future__ import annotations

import errno
import re

from thinet.base.errors import first_line

_AGAIN = "type the same command again, it goes on after the last checkpoint"
_NO_SPACE = "free some space, or choose another folder with paths.outputs=<folder>"


def system_error(error: BaseException) -> str | None:
    """The sentence for an error of the machine, None if it is none that is known.

    Args:
        error: Whatever ended a run.
    """
    text = f"{error} {error.__cause__ or ''}"
    if re.search(r"/torch_\d+|shared memory|shm", text) and re.search(r"No space|Bus|bus", text):
        return (
            "the loader processes have too little shared memory (/dev/shm): type a smaller "
            "dataset.num_workers, or give the machine more."
        )
    if isinstance(error, OSError) and not isinstance(error, ConnectionError):
        where = f" {error.filename}" if error.filename else ""
        advice = (
            f"{_NO_SPACE}; then {_AGAIN}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            else "choose another folder with paths.outputs=<folder>"
        )
        return f"cannot read or write{where} ({error.strerror or first_line(error)}): {advice}."
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "the GPU has too little memory: type a smaller finetune.batch_size and "
            "calibration.batch_size, or trainer.precision=bf16-mixed."
        )
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in text:
        return (
            "the machine has too little memory: type a smaller finetune.batch_size, "
            "calibration.batch_size or dataset.calibration_per_class."
        )
    if "DataLoader worker" in text:
        reason = re.search(r"killed by signal: (\w+)", text)
        how = reason[1] if reason else "it ended unexpectedly"
        return (
            f"a process that loads images died ({how}; often for want of memory): {_AGAIN}, with "
            "a smaller dataset.num_workers if it happens again."
        )
    if is_lost_process(error):
        return lost_process(_short(text))
    return None


def lost_process(how: str) -> str:
    """The sentence for a run of which another process has ended."""
    return f"another process of this run has ended ({how}): {_AGAIN}."


def is_lost_process(error: BaseException) -> bool:
    """Whether the error says no more than that another process of the run is gone."""
    told = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return type(error).__name__ in ("DistBackendError", "DistNetworkError") or (
        isinstance(error, (RuntimeError, ConnectionError))
        and not isinstance(error, BrokenPipeError)  # whoever read the output has gone
        and any(words in str(error) for words in told)
    )


def _short(text: str) -> str:
    found = re.search(r"Connection [\w ]+ peer|Broken pipe", text)
    return found[0] if found else " ".join(text.split())[:80]

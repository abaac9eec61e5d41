"""Where a point of a sweep runs: its GPU, its processes and its threads.

All of it is said in environment variables, so it has to be settled before torch starts.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from thinet.base.errors import ThinetError

CLAIMED = "THINET_GPU"  # the GPU of this worker, in its environment
_claimed: list[FileLock] = []  # held as long as the process lives


def launched_processes(env: Mapping[str, str]) -> int | None:
    """How many processes submitit started for this point; None without submitit."""
    executor = env.get("SUBMITIT_EXECUTOR")
    if executor == "local":
        return int(env.get("SUBMITIT_LOCAL_NTASKS", "1"))
    if executor == "slurm":
        return int(env.get("SLURM_NTASKS", "1"))
    return None


def launched_together(env: Mapping[str, str]) -> bool:
    """Whether torchrun, SLURM or submitit started all processes of this run, each by itself.

    Otherwise the first one starts the others, once it has decided to go on.
    """
    if "TORCHELASTIC_RUN_ID" in env or "SUBMITIT_EXECUTOR" in env:
        return int(env.get("WORLD_SIZE", env.get("SLURM_NTASKS", "1"))) > 1
    return not _in_shell(env) and int(env.get("SLURM_NTASKS", "1")) > 1


def _in_shell(env: Mapping[str, str]) -> bool:
    """Whether this is a shell within a job of SLURM, by Lightning's signs: one process, no task."""
    return env.get("SLURM_JOB_NAME") in ("bash", "interactive")


def tasks_on_machine(env: Mapping[str, str]) -> int:
    """How many processes SLURM started on each machine; 1 without SLURM.

    Where it gives each of them a GPU of its own (``--gpus-per-task=1``), none sees the others'.
    """
    if "SLURM_NTASKS" not in env or _in_shell(env):
        return 1
    # The first is set by --ntasks-per-node alone; the second reads "4(x2)" for 4 on each of two.
    told = env.get("SLURM_NTASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE", "1")
    return int(re.split(r"\D", told)[0] or 1)


def name_ranks(env: MutableMapping[str, str]) -> None:
    """Tell the processes of a point who they are, where submitit's local executor started them.

    Under SLURM Lightning reads SLURM's own variables.
    """
    if env.get("SUBMITIT_EXECUTOR") != "local" or "SUBMITIT_LOCAL_JOB_ID" not in env:
        return
    world = env["SUBMITIT_LOCAL_NTASKS"]
    if world == "1":
        return
    rank = env["SUBMITIT_LOCAL_GLOBALID"]
    env.update(
        RANK=rank,
        LOCAL_RANK=env["SUBMITIT_LOCAL_LOCALID"],
        NODE_RANK="0",
        WORLD_SIZE=world,
        LOCAL_WORLD_SIZE=world,
        MASTER_ADDR="127.0.0.1",
        # The same for all processes of the point, another for other points, and below the ports
        # that the system gives away.
        MASTER_PORT=str(20000 + int(env["SUBMITIT_LOCAL_JOB_ID"]) % 12000),
    )


def limit_threads(env: MutableMapping[str, str], launcher: Mapping[str, object]) -> None:
    """Give each process of submitit the threads of its CPUs; joblib and Ray do so themselves."""
    if env.get("SUBMITIT_EXECUTOR") and "OMP_NUM_THREADS" not in env:
        env["OMP_NUM_THREADS"] = str(launcher.get("cpus_per_task") or 1)


def check_workers(launcher: Any, accelerator: str) -> None:
    """Refuse more joblib workers than there are GPUs.

    Raises:
        ThinetError: If there are.
    """
    if "joblib" not in str(launcher.get("_target_")) or accelerator == "cpu":
        return
    gpus, workers = len(visible_gpus(os.environ)), launcher["n_jobs"]
    if gpus and isinstance(workers, int) and not 0 < workers <= gpus:
        raise ThinetError(
            f"hydra.launcher.n_jobs={workers} workers want a GPU each, and {gpus} can be used: "
            f"type hydra.launcher.n_jobs={gpus}, or name a GPU twice to share it, for example "
            "CUDA_VISIBLE_DEVICES=0,0."
        )


def visible_gpus(env: Mapping[str, str]) -> list[str]:
    """The GPUs that this process may use, in CUDA's terms, without starting CUDA."""
    named = env.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()


def claim_gpu(env: MutableMapping[str, str], folder: Path | None = None) -> str | None:
    """Take a GPU that no other worker on this machine has, for the life of this process.

    Waits while all are taken, so that points queue for GPUs and do not fail.

    Args:
        env: ``CUDA_VISIBLE_DEVICES`` is read from it and set in it.
        folder: Of the locks; by default one for the user on this machine.

    Returns:
        The GPU; None if there is none.
    """
    if CLAIMED in env:  # for an earlier point of this worker
        return env[CLAIMED]
    gpus = visible_gpus(env)
    if not gpus:
        return None
    folder = folder or Path(tempfile.gettempdir()) / f"thinet-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = folder.lstat()
    if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.getuid():
        raise ThinetError(f"{folder} belongs to somebody else: set TMPDIR to a folder of your own.")
    told = False
    while True:
        found = _first_free(gpus, folder)
        if found is not None:
            env["CUDA_VISIBLE_DEVICES"] = env[CLAIMED] = found
            return found
        if not told:
            print(f"all {len(gpus)} GPUs are taken by other points: waiting for one", flush=True)
            told = True
        time.sleep(1.0)


def _first_free(gpus: Sequence[str], folder: Path) -> str | None:
    for place, name in enumerate(gpus):
        # A GPU that is named twice may be shared by two.
        slot = f"{name.replace('/', '_')}.{list(gpus[:place]).count(name)}"
        lock = FileLock(folder / f"{slot}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        _claimed.append(lock)
        return name
    return None

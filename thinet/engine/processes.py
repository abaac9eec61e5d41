"""The processes of a run that the first one starts."""

from __future__ import annotations

from pytorch_lightning import Trainer
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from thinet.base import lifeline


def start_others(trainer: Trainer) -> None:
    """Start the other processes of this machine, unless torchrun, SLURM or submitit did.

    Lightning would start them itself, with the same command and variables, but kill the first one
    without a word when another ends, and let the others wait when the first one does.
    """
    lifeline.end_with_first()  # if this is such a process itself, of another program than run.py
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return
    if launcher.cluster_environment.creates_processes_externally:
        return
    with lifeline.starting_others():
        launcher._call_children_scripts()  # sets LOCAL_RANK, from which the Trainer knows
        lifeline.adopt(launcher.procs)

"""What Lightning says once a Trainer is too much with a Trainer a stage."""

from __future__ import annotations

import logging
import warnings


def silence_lightning() -> None:
    """Leave out what Lightning says about every Trainer: there is one a stage."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*The number of training batches.*",
        ".*Experiment logs directory.*",
        ".*It is recommended to use `self.log.*",
        ".*LeafSpec.*",
        ".*treespec.*",
        ".*was called before.*optimizer.step.*",
        ".*resuming from a checkpoint that ended.*",
        ".*GPU available but not used.*",
        ".*You defined a `validation_step` but have no `val_dataloader`.*",
    ):
        warnings.filterwarnings("ignore", message=text)

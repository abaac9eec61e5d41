"""Fine-tuning through the engine, and by a loop written by hand."""

from __future__ import annotations

import torch

from experiments.finetuning_throughput.run import NETWORKS, Setting, measure
from experiments.on_gpu.context import Context
from experiments.timing import Row
from thinet.datasets.digits import Digits
from thinet.engine.log_levels import silence_lightning
from thinet.engine.phases import Phase
from thinet.models.small_vgg import vgg_small

CELLS = (("vgg_small", 3, 64), ("resnet20", 2, 256), ("resnet56", 1, 64))
"""Network, epochs of a fit, images a batch."""


def finetune(context: Context) -> None:
    """The digits, held in memory: what is compared is the loops."""
    silence_lightning()
    rounds, patience = (1, 0.0) if context.smoke else (5, 6.0)
    cells = (("vgg_small", 1, 64),) if context.smoke else CELLS
    for name, epochs, batch in cells:
        size = 8 if context.smoke else 32
        images = Digits(image_size=size, batch_size=batch, crop="pad")
        images.setup()
        torch.manual_seed(0)
        if context.smoke:
            network = vgg_small(10, size, widths=(4, 8))
        else:
            network = NETWORKS[name](num_classes=10, image_size=size)
        phase = Phase(epochs, 0.01, "cosine")
        setting = Setting(network, images, phase, context.device, 2 if context.smoke else None)

        def task(name: str = name, setting: Setting = setting) -> Row:
            row, found = measure(name, setting, rounds, patience)
            return {**row, "least": min(found), "most": max(found)}

        context.cell({"network": name}, task, needs=10)

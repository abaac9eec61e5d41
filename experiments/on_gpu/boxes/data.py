"""What share of an epoch waits for images?"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import nn
from torchvision.models import mobilenet_v3_small, resnet18, resnet50

from experiments.input_speed.pictures import write_tree
from experiments.input_speed.run import ClockedFolder, Fit, Setting
from experiments.on_gpu.context import Context
from experiments.on_gpu.images import multiply
from experiments.timing import Row
from thinet.engine.log_levels import silence_lightning
from thinet.engine.settings import Devices

CELLS = (  # network, precision, loader, workers, steps
    ("resnet50", "32-true", "pil", 16, 14),
    ("resnet50", "bf16-mixed", "pil", 16, 14),
    ("resnet50", "32-true", "pil", 8, 14),
    ("resnet50", "32-true", "pil", 4, 14),
    ("resnet50", "32-true", "pil", 0, 5),
    ("resnet18", "bf16-mixed", "pil", 16, 14),
    ("resnet50", "bf16-mixed", "torchcodec", 16, 14),
)
TINY = (("mobilenet_v3_small", "32-true", "pil", 0, 3),)
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18, "resnet50": resnet50, "mobilenet_v3_small": mobilenet_v3_small,
}  # fmt: skip


def data(context: Context) -> None:
    """An epoch of fine-tuning through the engine, its batches clocked."""
    silence_lightning()
    root, batch = context.work / "pictures", 4 if context.smoke else 64
    mean = write_tree(root, *((16, 4, 0.2) if context.smoke else (64, 8, 1.0)))
    if not context.smoke:
        multiply(root / "train", 16)
    setting = Setting(root, 32 if context.smoke else 224, batch)
    chosen = TINY if context.smoke else CELLS
    if not context.smoke:  # the first steps of a process choose algorithms
        _fit(context, setting, "resnet50", "32-true", "pil", 2, 2)
    for name, precision, loader, workers, steps in chosen:
        key: Row = {"network": name, "precision": precision, "loader": loader, "workers": workers,
                    "batch": batch, "steps": steps, "mean_bytes": round(mean)}  # fmt: skip
        if loader == "torchcodec" and importlib.util.find_spec("torchcodec") is None:
            context.keep({**key, "error": "left out: torchcodec is not installed here"})
            continue
        context.cell(
            key,
            lambda name=name, precision=precision, loader=loader, workers=workers, steps=steps: (
                _fit(context, setting, name, precision, loader, workers, steps)
            ),
            needs=4,
        )


def _fit(
    context: Context, setting: Setting, name: str, precision: str, loader: str, workers: int,
    steps: int,
) -> Row:  # fmt: skip
    images = setting.data(ClockedFolder, loader, workers, "random_resized")
    images.setup()
    torch.manual_seed(0)
    network = NETWORKS[name](num_classes=images.num_classes)
    accelerator = "gpu" if context.device.type == "cuda" else "cpu"
    devices = Devices(accelerator, precision=precision, progress="off", max_steps_per_epoch=steps)
    fit = Fit(images, network, devices, context.work / f"{name}-{precision}-{loader}-{workers}")
    fit()
    return {"waits": fit.shares[0], "images_per_second": fit.speeds[0]}

"""ResNet-56 at half its FLOPs and fine-tuned for whole epochs: which way of pruning keeps more?"""

from __future__ import annotations

import time

import torch
from torch import nn

from experiments.cifar import Data, Images, accuracy, finetune, network, noise, recalibrated
from experiments.on_gpu.context import Context
from experiments.on_gpu.images import wait_for
from experiments.peers import run as study
from experiments.timing import Row
from thinet.metrics import cost
from thinet.models.cifar_resnet import CifarResNet

VARIANTS = (
    "weight_sum none", "full recipe", "thinet refit", "fpgm none", "thinet scale",
    "full recipe, uniform", "unpruned",
)  # fmt: skip
"""In the order of their turns; each seed has all before the next one begins."""
EPOCHS, BATCH, CALIBRATION, SEEDS = 3, 128, 512, 3


def peers(context: Context) -> None:
    """As many variants and seeds as there is time for; the test accuracy of the last weights.

    Raises:
        ValueError: If no images or weights were given, or they cannot be read.
    """
    model, data = _inputs(context)
    try:
        import torch_pruning  # noqa: F401
    except ImportError:
        why = "left out: Torch-Pruning is not installed here"
        context.keep({"variant": "those of Torch-Pruning", "seed": None, "error": why})
    epochs, seeds = (1, 1) if context.smoke else (EPOCHS, SEEDS)
    took: dict[str, float] = {}
    for seed in range(seeds):
        for variant in VARIANTS[:2] if context.smoke else VARIANTS:
            key: Row = {"variant": variant, "seed": seed, "epochs": epochs}

            def task(variant: str = variant, seed: int = seed) -> Row:
                return measure(context, model, data, variant, seed, epochs)

            began = time.monotonic()
            if context.cell(key, task, needs=1.1 * took.get(variant, 8.0)):
                took[variant] = time.monotonic() - began


def _inputs(context: Context) -> tuple[nn.Module, Data]:
    """The network and the images, on the device."""
    if context.smoke and not context.images:
        torch.manual_seed(0)
        found, model = noise(BATCH), CifarResNet(1, 10).eval()
    elif context.images and context.weights:
        model = network("resnet56", context.weights)
        # From the parent of this box's own folder: it is unpacked for all.
        found = wait_for(context.work.parent, context.left() - 5)
    else:
        raise ValueError("left out: give CIFAR-10 with --cifar and weights with --weights")
    parts = [
        Images(part.pixels.to(context.device), part.labels.to(context.device))
        for part in (found.train, found.validation, found.test)
    ]
    model = model.to(context.device).to(memory_format=torch.channels_last)
    return model, Data(*parts)


def measure(
    context: Context, model: nn.Module, data: Data, variant: str, seed: int, epochs: int
) -> Row:
    """Prune, recalibrate, fine-tune; the test accuracy in percent after each."""
    count = 32 if context.smoke else CALIBRATION
    began = time.monotonic()
    slim, again = model, model
    if variant != "unpruned":
        slim = study.prune(model, variant, data, count, seed)
        again = recalibrated(slim, data.calibration(count, seed))
    pruned = time.monotonic()
    gpu = context.device.type == "cuda"
    plain, before = accuracy(slim, data, gpu=gpu), accuracy(again, data, gpu=gpu)
    whole = len(data.train)
    trained = time.monotonic()
    tuned = finetune(again, data, epochs, whole, seed, batch=BATCH, gpu=gpu)
    after = accuracy(tuned, data, gpu=gpu)
    full, left = cost(model, study.SHAPE), cost(slim, study.SHAPE)
    return {
        "images": whole, "test_plain": plain, "test": before, "test_finetuned": after,
        "mflops": left.flops / 1e6, "flops_left": left.flops / full.flops, "params": left.params,
        "prune_seconds": pruned - began, "finetune_seconds": time.monotonic() - trained,
    }  # fmt: skip

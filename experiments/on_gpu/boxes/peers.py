"""ResNet-56 at half its FLOPs, with whole epochs of fine-tuning: which way of pruning keeps more?"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.cifar import (
    Data,
    Gradients,
    Images,
    finetune,
    network,
    normalise,
    plain_gradients,
    recalibrated,
    untrained,
)
from experiments.on_gpu.context import Context
from experiments.on_gpu.images import noise, wait_for
from experiments.peers import run as study
from experiments.timing import Row
from thinet.metrics import cost
from thinet.surgery import evaluating

VARIANTS = (
    "full recipe", "weight_sum none", "thinet refit", "full recipe, uniform", "thinet scale",
    "fpgm none", "unpruned",
)  # fmt: skip
"""In the order of their turns; each seed has all before the next one begins."""
EPOCHS, BATCH, CALIBRATION, SEEDS = 3, 128, 512, 3
TEST_BATCH = 1_000


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
    needs = 5.0
    for seed in range(seeds):
        for variant in VARIANTS:
            key: Row = {"variant": variant, "seed": seed, "epochs": epochs}

            def task(variant: str = variant, seed: int = seed) -> Row:
                return measure(context, model, data, variant, seed, epochs)

            began = time.monotonic()
            if not context.cell(key, task, needs) and context.left() < needs:
                return
            needs = max(needs, 1.1 * (time.monotonic() - began))


def _inputs(context: Context) -> tuple[nn.Module, Data]:
    """The network and the images, on the device."""
    if context.smoke and not context.images:
        torch.manual_seed(0)
        found, model = noise(2 * BATCH), untrained("resnet20").eval()
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
    plain, before = accuracy(slim, data.test), accuracy(again, data.test)
    whole = len(data.train)
    way = graphed_gradients if context.device.type == "cuda" else plain_gradients
    trained = time.monotonic()
    tuned = finetune(again, data.train, epochs, whole, seed, batch=BATCH, gradients=way)
    after = accuracy(tuned, data.test)
    full, left = cost(model, study.SHAPE), cost(slim, study.SHAPE)
    return {
        "images": whole, "test_plain": plain, "test": before, "test_finetuned": after,
        "mflops": left.flops / 1e6, "flops_left": left.flops / full.flops, "params": left.params,
        "prune_seconds": pruned - began, "finetune_seconds": time.monotonic() - trained,
        "gradients": way.__name__,
    }  # fmt: skip


@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    """Top-1 accuracy in percent."""
    with evaluating(model):
        right = sum(
            (model(batch).argmax(dim=1) == labels).sum()
            for batch, labels in images.batches(min(TEST_BATCH, len(images)))
        )
    return 100 * float(right) / len(images)


def graphed_gradients(model: nn.Module) -> Gradients:
    """Forward and backward pass as one CUDA graph: small networks wait for Python otherwise.

    The graph is recorded at the first batch; all batches must have its shape. The passes before
    recording leave no trace in the network.
    """
    graph: torch.cuda.CUDAGraph | None = None
    inputs: Tensor
    classes: Tensor

    def record(first: Tensor, labels: Tensor) -> None:
        nonlocal graph, inputs, classes
        inputs, classes = first.clone(memory_format=torch.preserve_format), labels.clone()
        before = [buffer.clone() for buffer in model.buffers()]
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):
                model.zero_grad(set_to_none=True)
                F.cross_entropy(model(inputs), classes).backward()
        torch.cuda.current_stream().wait_stream(beside)
        model.zero_grad(set_to_none=True)
        made = torch.cuda.CUDAGraph()
        with torch.cuda.graph(made):
            F.cross_entropy(model(inputs), classes).backward()
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), before, strict=True):
                buffer.copy_(value)
        graph = made

    def step(some: Tensor, labels: Tensor) -> None:
        if graph is None:
            record(some, labels)
            assert graph is not None
        inputs.copy_(some)
        classes.copy_(labels)
        graph.replay()

    return step

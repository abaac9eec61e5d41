"""ResNet-56 at half its FLOPs and fine-tuned for whole epochs: which way of pruning keeps more?"""

from __future__ import annotations

import time
import traceback
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.cifar import (
    Data,
    Gradients,
    Images,
    finetune,
    network,
    plain_gradients,
    recalibrated,
)
from experiments.on_gpu.context import Context
from experiments.on_gpu.images import noise, wait_for
from experiments.peers import run as study
from experiments.timing import Row
from thinet.metrics import cost
from thinet.models.cifar_resnet import CifarResNet
from thinet.surgery import evaluating

VARIANTS = (
    "weight_sum none", "full recipe", "thinet refit", "fpgm none", "thinet scale",
    "full recipe, uniform", "unpruned",
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
    plain, before = accuracy(slim, data.test), accuracy(again, data.test)
    whole = len(data.train)
    made: list[Graphed] = []

    def graphed(network: nn.Module) -> Gradients:
        made.append(Graphed(network))
        return made[0]

    way = graphed if context.device.type == "cuda" else plain_gradients
    trained = time.monotonic()
    tuned = finetune(again, data.train, epochs, whole, seed, batch=BATCH, gradients=way)
    after = accuracy(tuned, data.test)
    full, left = cost(model, study.SHAPE), cost(slim, study.SHAPE)
    return {
        "images": whole, "test_plain": plain, "test": before, "test_finetuned": after,
        "mflops": left.flops / 1e6, "flops_left": left.flops / full.flops, "params": left.params,
        "prune_seconds": pruned - began, "finetune_seconds": time.monotonic() - trained,
        "graph": bool(made) and made[0].graph is not None,
        "graph_differs": made[0].far if made else None,
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


class Graphed:
    """Forward and backward pass as one CUDA graph: small networks wait for Python otherwise.

    The graph is recorded at the first batch, whose shape all others must have. What is computed
    before leaves no trace in the network. Where there is no graph, or its gradients are not those
    of a plain pass, plain passes go on.

    Attributes:
        graph: The graph, if there is one.
        far: The largest difference from a plain pass's gradients, over the largest gradient.
    """

    def __init__(self, model: nn.Module) -> None:
        self.graph: torch.cuda.CUDAGraph | None = None
        self.far: float | None = None
        self._model = model
        self._plain = plain_gradients(model)
        self._inputs: Tensor | None = None
        self._labels: Tensor | None = None

    def __call__(self, inputs: Tensor, labels: Tensor) -> None:
        """The gradients of a batch."""
        if self._inputs is None or self._labels is None:
            self._inputs, self._labels = inputs.clone(), labels.clone()
            self._record(self._inputs, self._labels)
        if self.graph is None:
            self._plain(inputs, labels)
            return
        self._inputs.copy_(inputs)
        self._labels.copy_(labels)
        self.graph.replay()

    def _record(self, inputs: Tensor, labels: Tensor) -> None:
        before = [buffer.clone() for buffer in self._model.buffers()]
        beside = torch.cuda.Stream()
        try:
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):  # what is made once must not be part of the graph
                for _ in range(3):
                    self._plain(inputs, labels)
            torch.cuda.current_stream().wait_stream(beside)
            wanted = [parameter.grad.clone() for parameter in self._learning()]
            self._model.zero_grad(set_to_none=True)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                F.cross_entropy(self._model(inputs), labels).backward()
            graph.replay()
            found = [parameter.grad for parameter in self._learning()]
            apart = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
            self.far = apart / max(float(one.abs().max()) for one in wanted)
            self.graph = graph if self.far < 0.02 else None  # rounding, in TF32 too, is less
        except Exception:  # whatever the driver says
            traceback.print_exc()
            torch.cuda.synchronize()
        with torch.no_grad():
            for buffer, value in zip(self._model.buffers(), before, strict=True):
                buffer.copy_(value)

    def _learning(self) -> list[Any]:
        """The parameters that have gradients."""
        return [one for one in self._model.parameters() if one.grad is not None]

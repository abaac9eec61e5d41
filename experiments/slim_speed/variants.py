"""Slim networks of given widths, and the ways to run them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from thinet.metrics import cost
from thinet.models.resnet import resnet50
from thinet.models.vgg import vgg16, vgg16_gap
from thinet.surgery import remove_, trace
from thinet.widths.resolve import resolve_counts, resolve_layers

VGG_LAYERS = tuple(f"features.{place}" for place in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21))
"""What the paper prunes: all convolutions but those of the last group."""


def mobilenet_v2(num_classes: int, image_size: int) -> nn.Module:
    """MobileNetV2 of torchvision; its size does not depend on the images."""
    return torchvision.models.mobilenet_v2(weights=None, num_classes=num_classes)


TRAINING = 8
"""Batch of the backward passes where one thing is changed at a time: half, as they take thrice."""


@dataclass(frozen=True)
class Subject:
    """A network and what is cut from it.

    Attributes:
        title: For people.
        build: Called with ``num_classes`` and ``image_size``.
        layers: See ``thinet.prune``.
        ratio: Fraction of filters kept.
    """

    title: str
    build: Callable[..., nn.Module]
    layers: str | tuple[str, ...] = "inner"
    ratio: float = 0.5


SUBJECTS = {
    "vgg16": Subject("VGG-16, ThiNet-Conv", vgg16, VGG_LAYERS),
    "vgg16_gap": Subject("VGG-16-GAP", vgg16_gap, VGG_LAYERS),
    "resnet50": Subject("ResNet-50, inner", resnet50),
    "resnet50_all": Subject("ResNet-50, all layers", resnet50, "all"),
    "mobilenet_v2": Subject("MobileNetV2, inner", mobilenet_v2),
    # At r = 0.5 the widths of these networks are multiples of 32 as they are.
    "vgg16_r0.3": Subject("VGG-16, r = 0.3", vgg16, VGG_LAYERS, 0.3),
    "resnet50_r0.3": Subject("ResNet-50, r = 0.3", resnet50, "inner", 0.3),
}


@dataclass(frozen=True)
class Cell:
    """One way to run one subject.

    Attributes:
        subject: Key of :data:`SUBJECTS`.
        batch: Images at once.
        work: ``forward`` (evaluation) or ``both`` (forward and backward, training).
        layout: ``contiguous`` or ``channels_last``.
        dtype: ``float32`` or ``bfloat16``, of weights and images.
        mode: ``eager`` or ``compile``.
        round_to: Multiples that widths are rounded to.
    """

    subject: str
    batch: int = 16
    work: str = "forward"
    layout: str = "contiguous"
    dtype: str = "float32"
    mode: str = "eager"
    round_to: int = 1


def slimmed(network: nn.Module, subject: Subject, round_to: int, size: int) -> nn.Module:
    """A copy with the widths that pruning gives; which filters stay makes no difference here."""
    copied = copy.deepcopy(network).eval()
    graph = trace(copied, torch.zeros(1, 3, size, size))
    layers = subject.layers if isinstance(subject.layers, str) else list(subject.layers)
    names, _ = resolve_layers(graph, layers)
    counts = resolve_counts(graph, names, subject.ratio, round_to)
    return remove_(copied, graph, {name: range(count) for name, count in counts.items()})


def flops_ratio(full: nn.Module, slim: nn.Module, size: int) -> float:
    """How many times fewer FLOPs the slim network needs."""
    shape = (3, size, size)
    return cost(full, shape).flops / cost(slim, shape).flops


def prepared(network: nn.Module, cell: Cell, device: torch.device) -> nn.Module:
    """A copy on the device, in the layout, type and mode of a cell."""
    found = copy.deepcopy(network).to(device, getattr(torch, cell.dtype))
    if cell.layout == "channels_last":
        found = found.to(memory_format=torch.channels_last)
    found.train(cell.work == "both")
    if cell.mode == "compile":
        compiled: nn.Module = torch.compile(found, dynamic=False)
        return compiled
    return found


def images(cell: Cell, size: int, device: torch.device) -> Tensor:
    """Random images in the layout and type of a cell."""
    drawn = torch.randn(cell.batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    drawn = drawn.to(device, getattr(torch, cell.dtype))
    if cell.layout == "channels_last":
        drawn = drawn.contiguous(memory_format=torch.channels_last)
    return drawn


def work(network: nn.Module, batch: Tensor, kind: str) -> Callable[[], None]:
    """A task: a forward pass without gradients, or a forward and a backward pass."""

    def forward() -> None:
        with torch.no_grad():
            network(batch)

    def both() -> None:
        network(batch).float().square().mean().backward()
        network.zero_grad(set_to_none=True)

    return both if kind == "both" else forward


def one_at_a_time(subjects: Sequence[str], compiles: bool) -> list[Cell]:
    """A cell for every subject, batch and kind of work, and further ones with one thing changed."""
    cells = [
        Cell(name, batch, kind)
        for name in subjects
        if not name.endswith("r0.3")
        for batch, kind in ((1, "forward"), (16, "forward"), (TRAINING, "both"))
    ]
    for name in [name for name in subjects if name in ("vgg16", "resnet50")]:
        cells += [
            Cell(name, layout="channels_last"),
            Cell(name, dtype="bfloat16"),
            Cell(name, layout="channels_last", dtype="bfloat16"),
            Cell(name, TRAINING, "both", "channels_last"),
            Cell(name, TRAINING, "both", "channels_last", "bfloat16"),
        ]
        if compiles:
            cells.append(Cell(name, mode="compile"))
    for name in [name for name in subjects if name.endswith("r0.3")]:
        cells += [Cell(name, round_to=multiple) for multiple in (1, 8, 32)]
    return sorted(cells, key=lambda cell: list(SUBJECTS).index(cell.subject))


def everything(subjects: Sequence[str], compiles: bool) -> list[Cell]:
    """Every combination: for a GPU, or a long night."""
    return [
        Cell(name, batch, kind, layout, dtype, mode, multiple)
        for name in subjects
        for batch in (1, 16)
        for kind in ("forward", "both")
        for layout in ("contiguous", "channels_last")
        for dtype in ("float32", "bfloat16")
        for mode in (("eager", "compile") if compiles else ("eager",))
        for multiple in (1, 8, 32)
    ]

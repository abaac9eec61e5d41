"""The same network in every way of running it that somebody might choose on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import thinet
from thinet.artifacts.openvino import deployed
from thinet.artifacts.openvino.conversion import converted
from thinet.artifacts.openvino.deployed import compiled
from thinet.models.small_vgg import vgg_small
from thinet.quantization.layers import BinaryConv2d
from thinet.quantization.quantizer import Quantizer
from thinet.quantization.theory import theoretical_speedup

ORDERS = (1, 2, 3)
BITS = 8


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        name: In the table.
        channels: In and out of a layer; 0: a whole network.
        size: Of an image, in pixels.
        kernel: Of a layer's filters.
    """

    name: str
    channels: int
    size: int
    kernel: int = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        return (self.channels or 3, self.size, self.size)

    def full(self) -> nn.Module:
        """In full precision."""
        torch.manual_seed(0)
        if not self.channels:
            return NETWORKS[self.name](self.size).eval()
        inside = self.channels, self.channels, self.kernel
        return nn.Conv2d(*inside, padding=self.kernel // 2, bias=False).eval()

    def binary(self, order: int, scale: str = "sample") -> nn.Module:
        """With bits."""
        full = self.full()
        if isinstance(full, nn.Conv2d):
            return BinaryConv2d.like(full, Quantizer(order, scale), None).eval()
        few = torch.randn(2, *self.shape, generator=torch.Generator().manual_seed(0))
        return thinet.binarize(full, order, scale=scale, images=few).eval()

    def theory(self, order: int) -> float | None:
        """The paper's factor, of a layer."""
        if not self.channels:
            return None
        return theoretical_speedup(order, self.channels, self.kernel**2)


def _resnet18(size: int) -> nn.Module:
    from torchvision.models import resnet18

    return resnet18(num_classes=1000)


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "vgg_small 128-256-512": lambda size: vgg_small(10, size, (128, 256, 512)),
    "resnet18": _resnet18,
}
LAYERS = (
    Subject("3x3, 64 channels, 56x56", 64, 56),
    Subject("3x3, 128 channels, 28x28", 128, 28),
    Subject("3x3, 128 channels, 16x16", 128, 16),
    Subject("3x3, 256 channels, 14x14", 256, 14),
    Subject("3x3, 256 channels, 8x8", 256, 8),
    Subject("3x3, 512 channels, 7x7", 512, 7),
    Subject("1x1, 256 channels, 14x14", 256, 14, 1),
)
WHOLE = (Subject("vgg_small 128-256-512", 0, 32), Subject("resnet18", 0, 224))
TINY = Subject("3x3, 16 channels, 6x6", 16, 6)


def tasks(subject: Subject, threads: int) -> dict[str, Callable[[], object]]:
    """One pass of one image in each way; those of OpenVINO on the same input as each other."""
    images = torch.randn(1, *subject.shape, generator=torch.Generator().manual_seed(1))
    full = subject.full()
    graph = converted(full, subject.shape).graph
    found: dict[str, Callable[[], object]] = {
        "eager": partial(_eager, full, images),
        "fp32": _pass(graph, images, threads),
        "bf16": _pass(graph, images, threads, INFERENCE_PRECISION_HINT="bf16"),
        "int8": _pass(eight_bits(graph, images, threads), images, threads),
    }
    for order in ORDERS:
        found[f"order{order}"] = _deployed(subject.binary(order), images, threads)
    return found


def _deployed(network: nn.Module, images: Tensor, threads: int) -> Callable[[], object]:
    """As users get it: compared with the original first."""
    run = deployed(network, tuple(images.shape[1:]), threads)
    if not run.binary_layers:
        raise AssertionError("nothing is computed with bits")
    return partial(run, images)


@torch.inference_mode()
def _eager(network: nn.Module, images: Tensor) -> Tensor:
    made: Tensor = network(images)
    return made


def _pass(graph: Any, images: Tensor, threads: int, **options: str) -> Callable[[], object]:
    """As :class:`thinet.artifacts.openvino.Deployed` runs a graph, copy of the output included."""
    request = compiled(graph, tuple(images.shape), threads, **options).create_infer_request()

    def run() -> object:
        request.infer(images.numpy(), share_inputs=True)
        return request.get_output_tensor(0).data.copy()

    return run


def eight_bits(graph: Any, images: Tensor, threads: int) -> Any:
    """The graph in int8 as post-training quantisation makes it: ranges of one batch, per filter.

    Every convolution and product reads activations and weights through a FakeQuantize, which the
    CPU plugin turns into int8 arithmetic. Speed alone is measured, so that nothing is calibrated.
    """
    from openvino import opset13 as ops

    made = graph.clone()
    nodes = [
        node for node in made.get_ordered_ops() if node.get_type_name() in ("Convolution", "MatMul")
    ]
    largest = _largest(made, [node.input_value(0) for node in nodes], images, threads)
    for node, (low, high) in zip(nodes, largest, strict=True):
        bounds = [np.float32(low), np.float32(high)]
        read = ops.fake_quantize(node.input_value(0), *bounds, *bounds, 2**BITS)
        node.input(0).replace_source_output(read.output(0))
        weights = node.input_value(1)
        values = _values(weights.get_node())
        across = tuple(range(1, values.ndim))
        most = np.abs(values).max(across, keepdims=True).astype(np.float32)
        kept = ops.fake_quantize(weights, -most, most, -most, most, 2**BITS - 1)
        node.input(1).replace_source_output(kept.output(0))
    made.validate_nodes_and_infer_types()
    return made


def _values(node: Any) -> np.ndarray[Any, Any]:
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    values: np.ndarray[Any, Any] = node.data
    return values


def _largest(
    graph: Any, places: list[Any], images: Tensor, threads: int
) -> list[tuple[float, float]]:
    """Smallest and largest number at each place; from 0 where there are no negative ones."""
    names = []
    for index, place in enumerate(places):
        place.add_names({f"read.{index}"})
        names.append(f"read.{index}")
    looked_at = graph.clone()
    looked_at.add_outputs(names)
    model = compiled(looked_at, tuple(images.shape), threads)
    found = model.create_infer_request().infer(images.numpy())
    values = [found[model.output(name)] for name in names]
    return [_range(float(one.min()), float(one.max())) for one in values]


def _range(low: float, high: float) -> tuple[float, float]:
    if low >= 0:
        return 0.0, high
    most = max(-low, high)
    return -most, most * (2 ** (BITS - 1) - 1) / 2 ** (BITS - 1)


def kinds(graph: Any, images: Tensor, threads: int) -> dict[str, float]:
    """Microseconds of each kind of node in one pass, by the plugin's own clock."""
    model = compiled(graph, tuple(images.shape), threads, PERF_COUNT="YES")
    request = model.create_infer_request()
    passes: list[dict[str, float]] = []
    for _ in range(20):
        request.infer(images.numpy())
        own: dict[str, float] = {}
        for node in request.get_profiling_info():
            time = node.real_time.total_seconds() * 1e6
            own[node.node_type] = own.get(node.node_type, 0.0) + time
        passes.append(own)
    return {kind: float(np.median([own[kind] for own in passes])) for kind in passes[0]}


def inside(subject: Subject, order: int, threads: int) -> dict[str, float]:
    """Where the time of a binary network goes, see :func:`kinds`."""
    images = torch.randn(1, *subject.shape, generator=torch.Generator().manual_seed(1))
    return kinds(converted(subject.binary(order), subject.shape).graph, images, threads)

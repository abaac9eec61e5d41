"""One network: plan its conversion, convert it, run it forward and backward."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any
from unittest import mock

import timm
import torch
import torchvision
from torch import nn

from experiments.architecture_coverage.one_network import randomise_
from thinet.base.errors import ThinetError, first_line
from thinet.metrics import cost
from thinet.quantization import running
from thinet.quantization.convert import binarized, conversion_transform
from thinet.quantization.layers import binary_layers
from thinet.quantization.planning import Conversion, plan_conversion
from thinet.quantization.quantizer import Quantizer
from thinet.surgery import shared_copy

CLASSES = 10
LARGEST = 1.2e7
"""Parameters above which a network is planned and converted without numbers alone."""
_SMALL = (64, 128)
QUANTIZER = Quantizer(order=2)

Row = dict[str, Any]


def build(library: str, name: str) -> nn.Module:
    """The network, on the default device."""
    if library == "timm":
        return timm.create_model(name, num_classes=CLASSES)
    more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **more)


def without_numbers(library: str, name: str) -> nn.Module:
    """The network on the ``meta`` device."""
    try:
        with torch.device("meta"):
            return build(library, name)
    except (NotImplementedError, RuntimeError):  # its constructor looks at numbers
        return shared_copy(build(library, name), "meta")


def native_shape(library: str, name: str) -> tuple[int, ...]:
    """Of the images that weights of this network were published for."""
    if library == "timm":
        return tuple(timm.get_pretrained_cfg(name, allow_unregistered=True).input_size)
    weights: Any = torchvision.models.get_model_weights(name)
    size = int(min(entry.transforms().crop_size[0] for entry in weights))
    return (3, size, size)


def measured(library: str, name: str) -> Row:
    """The row of a network."""
    shape = native_shape(library, name)
    paper = without_numbers(library, name)
    begin = time.process_time()
    conversion = plan_conversion(paper, torch.empty(1, *shape, device="meta"))
    row: Row = {"plan_s": time.process_time() - begin, "image_size": shape[-1]}
    row |= counts(paper, conversion)
    row["params"] = sum(one.numel() for one in paper.parameters())
    row |= costs(paper, conversion, shape)
    if row["params"] > LARGEST:
        return row | {"forward_backward": "left out: more than 12 million parameters"}
    torch.manual_seed(0)
    network = build(library, name)
    randomise_(network)  # or branches that begin as zeros have no gradient
    small = smallest(network, shape)
    images = torch.randn(2, *small)
    row["same_with_numbers"] = with_numbers(network, small) == plan_conversion(network, images)
    made = _converted(network, plan_conversion(network, images))
    return row | {"trained_size": small[-1], "forward_backward": gradients(made, images)}


def counts(network: nn.Module, conversion: Conversion) -> Row:
    """What the plan says, in numbers."""
    modules = dict(network.named_modules())
    weights = {one.layer: modules[one.layer].weight.numel() for one in conversion.decisions}
    reasons = Counter(one.reason for one in conversion.decisions if one.reason)
    return {
        "layers": len(conversion.decisions),
        "binary": len(conversion.binary),
        "norms": len(conversion.norms),
        "removed": len(conversion.removed),
        "weights_binary": sum(weights[path] for path in conversion.binary) / sum(weights.values()),
        "why_not": "; ".join(f"{reason}: {count}" for reason, count in reasons.most_common()),
    }


def costs(network: nn.Module, conversion: Conversion, shape: tuple[int, ...]) -> Row:
    """What is left of bits and FLOPs; nothing for a network whose FLOPs torch cannot count."""
    try:
        before = cost(network, shape)
    except ThinetError:
        return {}
    after = cost(_converted(network, conversion), shape)
    return {
        "gflops": before.flops / 1e9,
        "bits_left": after.bits / before.bits,
        "flops_left": after.flops / before.flops,
    }


def smallest(network: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The smallest images of some sizes that the network runs on, to save time."""
    for size in _SMALL:
        if size < shape[-1]:
            with torch.device("meta"), torch.no_grad():
                try:
                    small = (shape[0], size, size)
                    shared_copy(network, "meta").train()(torch.empty(2, *small))
                    return small
                except Exception:  # of whatever kind
                    continue
    return shape


def with_numbers(network: nn.Module, shape: tuple[int, ...]) -> Conversion:
    """The plan from a pass with numbers, where the one without them is not to be had."""

    def copy(network: nn.Module, device: str | None = None) -> nn.Module:
        if device is not None:
            raise NotImplementedError
        return shared_copy(network)

    with mock.patch.object(running, "shared_copy", copy):
        return plan_conversion(network, torch.empty(1, *shape))


def gradients(network: nn.Module, images: torch.Tensor) -> str:
    """One step of training: ``fine``, or the first thing that is wrong."""
    network.train()
    for module in network.modules():  # a branch that is dropped for both images has no gradient
        if "Drop" in type(module).__name__ or "StochasticDepth" in type(module).__name__:
            module.eval()
    try:
        output = network(images)
        output = getattr(output, "logits", output)
        output.square().mean().backward()
    except Exception as error:  # of whatever kind
        return f"raises {type(error).__name__}: {first_line(error)[:150]}"
    if not bool(torch.isfinite(output).all()):
        return "the output is not finite"
    for path, layer in binary_layers(network).items():
        gradient = layer.weight.grad
        if gradient is None or not bool(torch.isfinite(gradient).all()):
            return f"{path} has no finite gradient"
        if not bool(gradient.any()):
            return f"{path} has a gradient of zeros"
    return "fine"


def _converted(network: nn.Module, conversion: Conversion) -> nn.Module:
    arguments: Any = conversion_transform(conversion, QUANTIZER).arguments
    return binarized(network, **arguments)

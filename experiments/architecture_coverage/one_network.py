"""One network: build it, prune it with thinet, check the law, time it."""

from __future__ import annotations

import copy
import resource
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from thinet.metrics import cost
from thinet.models.torchvision_net import torchvision_net
from thinet.surgery import ChannelGraph, difference, masked, remove_, shared_copy, trace
from thinet.widths.choose import Request, choose_counts, choose_groups

CLASSES = 1000
RATIO = 0.5
LARGE = 5e9
"""FLOPs of one image above which the law is checked on smaller images, where they can be."""
SMALL_SIZE = 128
GIB = 2**30

Row = dict[str, Any]


def image_size(name: str) -> int:
    """The smallest image size that weights of this network were published for."""
    weights: Any = torchvision.models.get_model_weights(name)
    return int(min(entry.transforms().crop_size[0] for entry in weights))


def build(name: str, size: int) -> nn.Module:
    """The network in which every tensor matters: nothing is left constant by its constructor."""
    torch.manual_seed(0)
    network = torchvision_net(name, CLASSES, size)
    randomise_(network)
    return network.eval()


@torch.no_grad()
def randomise_(network: nn.Module) -> None:
    """Draw what a constructor leaves constant: BatchNorms, biases, layer scales, zero heads.

    Otherwise the law would hold for reasons of its own: a head of zeros hides every mistake.
    """
    for parameter in network.parameters():
        if bool((parameter == parameter.flatten()[0]).all()):
            if parameter.dim() > 1 and parameter[0].numel() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            elif bool((parameter == 0).all()):
                parameter.normal_(std=0.3)
            else:
                parameter.uniform_(0.5, 1.5)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)


@contextmanager
def cpu_seconds(row: Row, key: str) -> Iterator[None]:
    """Write to ``row[key]`` the CPU time of the block, to which other processes do not add."""
    start = time.process_time()
    try:
        yield
    finally:
        row[key] = time.process_time() - start


def peak_mb() -> float:
    """Largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def random_units(graph: ChannelGraph, counts: Mapping[str, int]) -> dict[str, list[int]]:
    """Which units stay: any do, since the law does not depend on which."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: sorted(torch.randperm(graph.groups[name].units, generator=generator)[:count].tolist())
        for name, count in counts.items()
    }


def describe(graph: ChannelGraph, groups: Sequence[str], skipped: Mapping[str, str]) -> Row:
    """How many layers are cut, and why the others stay whole."""
    summed = {
        layer.name for group in graph.groups.values() if group.summed for layer in group.layers
    }
    reasons = Counter(reason for layer, reason in skipped.items() if layer not in summed)
    reasons.pop("they are the network's output", None)
    left = sum(reasons.values())
    return {
        "prunes": "partly" if left else "completely",
        "groups": len(groups),
        "layers_cut": sum(len(graph.groups[name].layers) for name in groups),
        "layers_in_streams": sum(layer in summed for layer in skipped),
        "layers_left": left,
        "why_left": "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common()),
    }


def with_thinet(name: str, memory: float, only_timing: bool = False) -> Row:
    """Plan, cut and check one network.

    Args:
        name: Its name in torchvision.
        memory: Bytes that the float64 copies may take.
        only_timing: Leave out all that is not timed.
    """
    size = image_size(name)
    network = build(name, size)
    row: Row = {"image_size": size, "network_mb": cost(network, (3, size, size)).size_mb}
    slim, graph, keep = plan_and_cut(network, size, row)
    if only_timing:
        return row
    row["peak_mb"] = peak_mb()
    before, after = cost(network, (3, size, size)), cost(slim, (3, size, size))
    row["params"] = before.params
    row["gflops"] = before.flops / 1e9
    row["flops_left"] = after.flops / before.flops
    row["params_left"] = after.params / before.params
    fixed = name.startswith(("vit_", "maxvit_"))  # built for one size
    row["law_image_size"] = SMALL_SIZE if before.flops > LARGE and not fixed else size
    check_law(network, slim, graph, keep, row, memory)
    row["whole_peak_mb"] = peak_mb()
    return row


def plan_and_cut(
    network: nn.Module, size: int, row: Row
) -> tuple[nn.Module, ChannelGraph, dict[str, list[int]]]:
    """What ``thinet.prune`` does but for choosing the units, timed part by part."""
    images = torch.randn(2, 3, size, size)
    request = Request(layers="inner", ratio=RATIO)
    with cpu_seconds(row, "trace_s"):
        graph = trace(network, images[:1])
    with cpu_seconds(row, "trial_s"):
        groups, skipped = choose_groups(network, graph, request, images)
    row.update(describe(graph, groups, skipped))
    with cpu_seconds(row, "cut_s"):
        counts = choose_counts(network, graph, groups, request, tuple(images.shape[1:]))
        keep = random_units(graph, counts)
        slim = remove_(shared_copy(network), graph, keep)
    row["plan_and_cut_s"] = row["trace_s"] + row["cut_s"]
    return slim, graph, keep


def check_law(
    network: nn.Module,
    slim: nn.Module,
    graph: ChannelGraph,
    keep: Mapping[str, Sequence[int]],
    row: Row,
    memory: float,
) -> None:
    """Zeroing against removing in both precisions, and the backward pass. Doubles the networks."""
    size = row["law_image_size"]
    batches = {count: torch.randn(count, 3, size, size) for count in (1, 3)}
    twin = masked(network, graph, keep)
    for count, images in batches.items():
        row[f"float32_batch{count}"] = difference(twin, slim, images)
    # How much the cut changes: with next to nothing, the law would be no check.
    row["effect"] = difference(network, slim, batches[3])
    own = {id(parameter) for parameter in network.parameters()}
    extra = [p for copied in (twin, slim) for p in copied.parameters() if id(p) not in own]
    del twin
    row["backward"] = gradients(slim, batches[3], train=True)
    row["backward_batch1"] = gradients(slim, batches[1], train=False)
    need = 8.0 * sum(p.numel() for p in [*network.parameters(), *extra])
    del extra
    if need > memory:
        row["unchecked"] = f"float64 (takes {need / GIB:.0f} GiB)"
        return
    slim.double()
    twin = masked(network.double(), graph, keep)
    for count, images in batches.items():
        row[f"float64_batch{count}"] = difference(twin, slim, images.double())


def gradients(network: nn.Module, images: Tensor, train: bool) -> str:
    """``finite``, or what is wrong with the gradients of a loss."""
    twin = copy.deepcopy(network).train(train)
    labels = torch.arange(len(images))
    nn.functional.cross_entropy(twin(images), labels).backward()
    for name, parameter in twin.named_parameters():
        if parameter.grad is None:
            return f"none for {name}"
        if not bool(torch.isfinite(parameter.grad).all()):
            return f"not finite for {name}"
    return "finite"

"""What all tests of the law share: random networks, random cuts and the law itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_leaves

from thinet.surgery import ChannelGraph, evaluating, masked, remove_, shared_copy

Keep = dict[str, list[int]]


def _randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Random biases and normalisations, so that no channel is zero or like another."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        norm = isinstance(module, _NormBase | nn.GroupNorm | nn.LayerNorm)
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None or not tensor.is_floating_point():
                continue
            if name == "running_var" or (norm and name == "weight"):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
            elif name in ("running_mean", "bias", "layer_scale") or not tensor.any():
                tensor.data.normal_(0, 0.3, generator=generator)
    return net.eval()


def _random_keep(graph: ChannelGraph, names: Iterable[str], seed: int = 1) -> Keep:
    """Some units of each group, at least one and not all (of one unit: that one)."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for name in names:
        units = graph.groups[name].units
        count = int(torch.randint(1, max(2, units), (), generator=generator))
        keep[name] = torch.randperm(units, generator=generator)[:count].sort().values.tolist()
    return keep


def _pass(net: nn.Module, images: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs, and the gradients of a fixed random combination of them."""
    images = images.clone().requires_grad_()
    with evaluating(net):
        outputs = [out for out in tree_leaves(net(images)) if isinstance(out, Tensor)]
    generator = torch.Generator().manual_seed(2)
    loss = sum(
        (out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).sum()
        for out in outputs
    )
    names = [name for name, tensor in net.named_parameters() if tensor.requires_grad]
    tensors = [images, *(net.get_parameter(name) for name in names)]
    grads = torch.autograd.grad(loss, tensors, allow_unused=True)
    found = zip(["images", *names], grads, strict=True)
    return [out.detach() for out in outputs], {k: g for k, g in found if g is not None}


def _off(left: Tensor, right: Tensor) -> float:
    assert left.shape == right.shape
    return float((left - right).abs().max() / left.abs().max().clamp_min(1e-30))


def _check(
    net: nn.Module,
    graph: ChannelGraph,
    keep: Keep,
    batches: Sequence[Tensor],
    tolerance: float,
    gradients: float | None = None,
) -> nn.Module:
    """Assert that zeroing equals removing, forward and backward; returns the slim network.

    Gradients of what stays must be the same too: those of images and of each parameter's entries.
    """
    slim = remove_(shared_copy(net), graph, keep)
    zeroed = masked(net, graph, keep)
    gone = graph.removed_labels(keep)
    for images in batches:
        expected, wanted = _pass(zeroed, images)
        found, grads = _pass(slim, images)
        with torch.no_grad():
            full = [out for out in tree_leaves(net(images)) if isinstance(out, Tensor)]
        for a, b in zip(expected, found, strict=True):
            assert _off(a, b) < tolerance
        # It is no accident: what was removed matters.
        assert max(_off(a, b) for a, b in zip(full, found, strict=True)) > 10 * tolerance
        for use in graph.uses:
            if use.tensor in wanted:
                stays = torch.nonzero(~torch.isin(use.labels, gone)).flatten()
                if len(stays) < use.labels.numel():
                    wanted[use.tensor] = wanted[use.tensor].index_select(use.axis, stays)
        assert wanted.keys() == grads.keys()
        largest = max(float(grad.abs().max()) for grad in wanted.values() if grad.numel())
        for name, grad in wanted.items():
            assert grad.shape == grads[name].shape
            off = float((grad - grads[name]).abs().max()) / largest
            assert off < (gradients or tolerance), name
    return slim


@pytest.fixture(scope="session")
def randomise() -> Callable[..., nn.Module]:
    return _randomise


@pytest.fixture(scope="session")
def random_keep() -> Callable[..., Keep]:
    return _random_keep


@pytest.fixture(scope="session")
def check_law() -> Callable[..., nn.Module]:
    return _check

"""From a network in full precision to one with binary layers."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from thinet.artifacts.spec import Transform
from thinet.base.errors import ThinetError, first_line
from thinet.base.messages import say
from thinet.base.values import shown
from thinet.quantization.planning import Conversion, plan_conversion
from thinet.quantization.replacing import replaced
from thinet.quantization.running import DoesNotRunError, copied
from thinet.quantization.settings import Quantizer
from thinet.surgery import check_network, evaluating, without_autocast

TRANSFORM = "thinet.quantization.convert.binarized"
_SIZES = (224, 32, 28, 64, 299, 256, 384, 96, 512)
"""Pixels a side that are tried where no images say it."""


def binarized(
    network: nn.Module,
    order: int,
    scale: str,
    clip: float,
    binary: Sequence[str],
    norms: Sequence[str],
    removed: Sequence[str],
) -> nn.Module:
    """Replace layers by binary ones: what ``spec.json`` names, so it looks at no image.

    Args:
        network: Changed in place; weights become the latent ones.
        order: K, bits of an activation.
        scale: See :class:`Quantizer`.
        clip: See :class:`Quantizer`.
        binary: Paths of layers that become binary.
        norms: Of those: the ones that get a new BatchNorm in front.
        removed: Paths of ReLUs that become :class:`torch.nn.Identity`.

    Returns:
        ``network``.

    Raises:
        ThinetError: If a path leads to no such module.
    """
    quantizer = Quantizer(order, scale, clip)
    for name, paths in {"binary": binary, "norms": norms, "removed": removed}.items():
        if isinstance(paths, str) or not all(isinstance(path, str) for path in paths):
            raise ThinetError(f"{name}={shown(paths)} is not a list of module paths.")
    beyond = sorted(set(norms) - set(binary))
    if beyond:
        raise ThinetError(f"norms has {shown(beyond[0])}, which is not among the binary layers.")
    return replaced(network, quantizer, binary, norms, removed)


@torch.inference_mode(False)  # where nothing could be trained
@without_autocast
def binarize(
    network: nn.Module,
    order: int = 2,
    layers: str | Sequence[str] = "auto",
    *,
    scale: str = "sample",
    clip: float = 1.0,
    images: Tensor | Iterable[Any] | None = None,
) -> nn.Module:
    """Make the convolutions and linear layers of a network binary, for training.

    Their weights get one bit and a factor a filter, their inputs ``order`` bits. In front of each
    has to stand a BatchNorm with no ReLU between: where the network is built otherwise, ReLUs go
    and BatchNorms are added. The result has to be trained; its accuracy before that is that of
    chance.

    Args:
        network: Any network in full precision; left as it was.
        order: K, bits of an activation: 1 is XNOR-Net, 2 and more HORQ.
        layers: ``auto``: all but the first and the last, or a name or glob or a list of those;
            see :func:`plan_conversion`.
        scale: See :class:`Quantizer`.
        clip: See :class:`Quantizer`.
        images: ``(N, C, H, W)``, or an iterable of such batches or of tuples that begin with one,
            which new BatchNorms take their statistics from. Without images these start at mean 0
            and variance 1, and common sizes are tried to see how the network runs.

    Returns:
        A copy on the same device and in the same mode.

    Raises:
        ThinetError: If the request makes no sense or no layer can become binary.

    Example:
        >>> import torch, torchvision, thinet
        >>> net = torchvision.models.resnet18(num_classes=10)
        >>> binary = thinet.binarize(net, order=2, images=torch.randn(8, 3, 64, 64))
        >>> type(binary.layer1[0].conv1).__name__
        'BinaryConv2d'
    """
    check_network(network)
    quantizer = Quantizer(order, scale, clip)
    batches = None if images is None else _batches(images)
    if batches is None:
        conversion = _planned_blind(network, layers)
    else:
        first = next(batches)
        batches = chain([first], batches)
        conversion = plan_conversion(network, first, layers)
    made = copied(network, copy.deepcopy)
    transform = conversion_transform(conversion, quantizer)
    binarized(made, **transform.arguments)  # type: ignore[arg-type]
    say(described(conversion, quantizer))
    if batches is not None:
        estimate_norms_(made, conversion.norms, batches)
    return made


def conversion_transform(conversion: Conversion, quantizer: Quantizer) -> Transform:
    """What a saved network says of its conversion; see :class:`thinet.artifacts.spec.Spec`."""
    return Transform(
        TRANSFORM,
        {
            "order": quantizer.order, "scale": quantizer.scale, "clip": float(quantizer.clip),
            "binary": list(conversion.binary), "norms": list(conversion.norms),
            "removed": list(conversion.removed),
        },
    )  # fmt: skip


def described(conversion: Conversion, quantizer: Quantizer) -> str:
    """One line for the person who watches."""
    groups: dict[str, list[str]] = defaultdict(list)
    for decision in conversion.decisions:
        if decision.reason:
            groups[decision.reason].append(decision.layer)
    stay = "; ".join(f"{_some(names)} ({reason})" for reason, names in groups.items())
    return (
        f"binary, order {quantizer.order}: {_count(len(conversion.binary), 'layer')}, "
        f"{_count(len(conversion.norms), 'BatchNorm')} added, "
        f"{_count(len(conversion.removed), 'ReLU')} removed; "
        f"in floating point: {stay or 'none'}"
    )


@torch.no_grad()
def estimate_norms_(network: nn.Module, paths: Sequence[str], batches: Iterable[Tensor]) -> None:
    """Set the running statistics of new BatchNorms to means over batches, all else in ``eval()``.

    Args:
        network: A binarised network.
        paths: Of the binary layers with a BatchNorm of their own.
        batches: ``(N, C, H, W)`` each.

    Raises:
        ThinetError: If the network does not run on them, or computes what is not finite.
    """
    norms = [network.get_submodule(path).norm for path in paths]
    found = [norm for norm in norms if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    parameter = next(network.parameters())
    if not found or parameter.is_meta:
        return
    before = [norm.momentum for norm in found]
    with evaluating(network):
        for norm in found:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
            norm.train()
        try:
            for images in batches:
                network(images.to(parameter.device, parameter.dtype))
        except (RuntimeError, ValueError) as error:
            raise ThinetError(
                f"the BatchNorms cannot be estimated from images of shape {tuple(images.shape)} "
                f"({first_line(error)[:200]}): give batches of at least 2 images of the right size."
            ) from error
        finally:
            for norm, momentum in zip(found, before, strict=True):
                norm.momentum = momentum
    statistics = [one for norm in found for one in (norm.running_mean, norm.running_var)]
    if not all(bool(one.isfinite().all()) for one in statistics if one is not None):
        raise ThinetError(
            "the BatchNorms cannot be estimated: what they read of these images is not finite (NaN "
            "or infinite), so give images that are, normalised as in training."
        )


def _batches(images: Tensor | Iterable[Any]) -> Iterator[Tensor]:
    """The images of each batch; at least one."""
    if isinstance(images, Tensor):
        images = [images]
    try:
        given = iter(images)
    except TypeError as error:
        raise ThinetError(
            f"images={shown(images)} cannot be iterated over: pass a tensor (N, C, H, W), a "
            "DataLoader or a list of such tensors."
        ) from error
    found = map(_images_of, given)
    first = next(found, None)
    if first is None:
        raise ThinetError("images holds none: pass at least one batch of (N, C, H, W).")
    return chain([first], found)


def _images_of(batch: Any) -> Tensor:
    first = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
    if not isinstance(first, Tensor) or first.dim() < 2 or not len(first):
        raise ThinetError(
            "images must be tensors of shape (N, C, H, W), alone or first in a tuple: pass one, a "
            "DataLoader or a list of such batches."
        )
    return first


def _planned_blind(network: nn.Module, layers: str | Sequence[str]) -> Conversion:
    """Plan with images of common sizes, as no others are known."""
    kinds = (nn.Conv2d, nn.Linear)
    first = next((one for one in network.modules() if isinstance(one, kinds)), None)
    shapes: list[tuple[int, ...]] = [(2, 3, size, size) for size in _SIZES]
    if isinstance(first, nn.Conv2d):
        shapes = [(2, first.in_channels, size, size) for size in _SIZES]
    elif isinstance(first, nn.Linear):
        shapes.insert(0, (2, first.in_features))
    for shape in shapes:
        try:
            return plan_conversion(network, torch.empty(shape, device="meta"), layers)
        except DoesNotRunError:
            continue
    raise ThinetError(
        "the network does not run on images of a common size: pass some that it was made for, "
        "images=..."
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"

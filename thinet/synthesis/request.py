"""What a call of ``thinet.synthesize`` asks for, checked in terms of that call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from thinet.base.errors import SettingError, ThinetError, first_line
from thinet.base.values import is_whole, shown
from thinet.engine.distilled import Pupil
from thinet.models.classifier import logits_in
from thinet.models.features import Feature, find_feature
from thinet.surgery import check_network
from thinet.synthesis.critic import Critic
from thinet.synthesis.settings import Losses
from thinet.synthesis.statistics import batchnorms

BATCHNORM = 1.0
"""Weight of the BatchNorm statistics where the network has any and nothing else is asked for."""


def image_shape(image_size: Any) -> tuple[int, int, int]:
    """``(C, H, W)`` of a side in pixels, or of itself."""
    if is_whole(image_size) and image_size > 0:
        return (3, int(image_size), int(image_size))
    given = tuple(image_size) if isinstance(image_size, (tuple, list, torch.Size)) else ()
    if len(given) == 3 and all(is_whole(one) and one > 0 for one in given):
        channels, height, width = map(int, given)
        return (channels, height, width)
    raise ThinetError(
        f"image_size={shown(image_size)} is neither a number of pixels nor (C, H, W): pass for "
        "example image_size=32 or image_size=(1, 28, 28)."
    )


def first_parameter(network: Any) -> Tensor:
    """A floating parameter of a network that can be learnt from: its type and device."""
    check_network(network)
    floating = (one for one in network.parameters() if one.is_floating_point())
    first: Tensor | None = next(floating, None)
    if first is None:
        raise ThinetError("this network has no parameters, so nothing can be learnt from it.")
    if any(one.is_inference() for one in network.parameters()):
        raise ThinetError(
            "the network's weights were made in torch.inference_mode(), and nothing can be trained "
            "through them: pass copy.deepcopy(network), made outside of it."
        )
    if not all(bool(one.isfinite().all()) for one in network.parameters()):
        raise ThinetError("the network's weights hold NaN or infinite values: load good ones.")
    return first.detach()


def critic_for(
    network: nn.Module, given: Losses | Mapping[str, Any] | None, images: Tensor
) -> Critic:
    """The network as a judge, by what was asked for or by what it allows.

    Raises:
        ThinetError: In terms of the Python call, if it cannot judge so.
    """
    losses = _losses(given, network)
    if losses.adversarial:
        raise ThinetError(
            "the adversarial loss looks at a student, and there is none: pass losses without it."
        )
    feature: Feature | None = None
    try:
        feature = find_feature(network, images, losses.feature)
    except ThinetError as error:
        logits_in(answer(network, images))
        if losses.activation and given is not None:
            raise ThinetError(
                f"the network's features cannot be read ({first_line(error)}): pass "
                'losses={"activation": 0}, or the name of the classifier as '
                'losses={"feature": "fc"}.'
            ) from error
        losses = replace(losses, activation=0.0)
    if losses.batchnorm and not batchnorms(network):
        raise ThinetError(
            "losses.batchnorm compares with what BatchNorm layers have stored, and the network has "
            'none: pass losses={"batchnorm": 0}.'
        )
    return Critic(Pupil(network, feature), losses)


def _losses(given: Any, network: nn.Module) -> Losses:
    if isinstance(given, Losses):
        return given
    usual: dict[str, Any] = {"batchnorm": BATCHNORM if batchnorms(network) else 0.0}
    if given is None:
        return Losses(**usual)
    names = list(asdict(Losses()))
    wrong = given if not isinstance(given, Mapping) else [one for one in given if one not in names]
    if wrong or not isinstance(given, Mapping):
        raise ThinetError(
            f"losses={shown(wrong)} is no mapping of {', '.join(names)}: pass for example "
            'losses={"batchnorm": 10.0}.'
        )
    try:
        return Losses(**{**usual, **given})
    except SettingError as error:
        raise ThinetError(
            f'{error.problem}: pass for example losses={{"{error.field}": {error.example}}}.'
        ) from error


def answer(network: nn.Module, images: Tensor) -> object:
    """What the network gives for images, or in one sentence that it does not run on them."""
    try:
        with torch.no_grad():
            return network(images)
    except Exception as error:  # networks complain in every way there is
        raise ThinetError(
            f"the network does not run on images of shape {tuple(images.shape)} "
            f"({first_line(error)}): pass the image_size that it was made for."
        ) from error


def check_classes(network: nn.Module, images: Tensor, size: int, losses: Losses) -> None:
    """Refuse a network without logits, and batches that cannot hold images of all its classes."""
    logits = logits_in(answer(network, images))
    if logits.dim() != 2 or len(logits) != len(images):
        raise ThinetError(
            f"the network gives {tuple(logits.shape)} for {len(images)} images where logits (N, "
            "classes) are expected: wrap it in a module that returns those alone."
        )
    classes = logits.shape[1]
    if losses.entropy and size < classes:
        raise ThinetError(
            f"batch_size={size} cannot hold images of all {classes} classes: pass "
            f'batch_size={2 * classes}, or losses={{"entropy": 0}}.'
        )

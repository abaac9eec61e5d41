"""Any classifier of timm (PyTorch Image Models), by its name there; an optional dependency."""

from __future__ import annotations

import importlib
import textwrap
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from thinet.base.errors import ThinetError, first_line
from thinet.models.library import check_name, check_runs

LISTING = "python -c 'import timm; print(timm.list_models())'"


def timm_net(architecture: str, num_classes: int, image_size: int) -> nn.Module:
    """A network as timm has it, randomly initialised.

    Args:
        architecture: For example ``resnet26``, or with the tag of its weights,
            ``resnet26.bt_in1k``. Only names in timm's own list: no ``hf-hub:`` or ``local-dir:``,
            which would read configurations and files of strangers.
        num_classes: Width of the output ``(N, num_classes)``.
        image_size: Pixels a side; networks of a fixed size are built for exactly this one.

    Raises:
        ThinetError: If timm is not installed, has no such network, or the network does not
            classify or does not run on images of this size.
    """
    timm = _timm()
    names = {*timm.list_models(), *timm.list_models(include_tags=True)}
    check_name("timm", architecture, names, LISTING)
    _try(architecture, num_classes, image_size)
    return _make(architecture, image_size, num_classes=num_classes)


def is_timm(network: nn.Module) -> bool:
    """Whether timm built the network."""
    return type(network).__module__.startswith("timm.")


def published_state(network: nn.Module, architecture: str) -> dict[str, Tensor]:
    """Tensors of timm's pretrained weights, fitted by timm to the image size of ``network``.

    Args:
        network: From :func:`timm_net`.
        architecture: Its name; a tag in it chooses among several weights.

    Returns:
        A state dict, with the head that was trained, if there was one.

    Raises:
        ThinetError: If there are none or they cannot be downloaded.
    """
    config: Any = network.pretrained_cfg
    if not any(config.get(key) for key in ("url", "hf_hub_id", "file")):
        raise ThinetError(
            f"timm has no published weights for {architecture}: "
            "type model.weights=none, or the path of a file."
        )
    try:
        with torch.random.fork_rng(devices=[]):
            twin = _make(architecture, config["input_size"][-1], pretrained=True)
    except Exception as error:  # the hub's client raises whatever its HTTP library does
        hub = config.get("hf_hub_id")
        source = f"the file of https://huggingface.co/{hub}" if hub else config.get("url")
        reason = textwrap.shorten(first_line(error), 120, placeholder=" ...")
        raise ThinetError(
            f"the weights of {architecture} could not be downloaded ({reason}): "
            f"download {source} on a machine with network and give model.weights=<file>, "
            "or train from scratch with model.weights=none."
        ) from error
    return twin.state_dict()


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ThinetError(
            "model=timm needs the package timm, which is not installed: "
            "type pip install 'thinet[timm]', or choose a network of model=torchvision."
        ) from error


@cache  # a run builds the same network several times
def _try(architecture: str, num_classes: int, image_size: int) -> None:
    usual_size = _timm().get_pretrained_cfg(architecture).input_size[-1]
    make = partial(_make, architecture, image_size, num_classes=num_classes)
    check_runs(make, architecture, num_classes, image_size, usual_size)


def _make(architecture: str, image_size: int, **options: Any) -> nn.Module:
    # Told this way, timm hands the size on to those networks alone that are built for one size.
    size = {"input_size": (3, image_size, image_size)}
    network: nn.Module = _timm().create_model(architecture, pretrained_cfg_overlay=size, **options)
    return network

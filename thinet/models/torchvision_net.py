"""Any classification network of torchvision, by its name there."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode

from thinet.models.library import check_name, check_runs

LISTING = "python -c 'import torchvision.models as m; print(m.list_models(m))'"


def torchvision_net(
    architecture: str, num_classes: int, image_size: int, transform_input: bool = True
) -> nn.Module:
    """A network exactly as torchvision has it, randomly initialised and without auxiliary heads.

    Unlike ``thinet.models.vgg`` and ``.resnet`` it gets no special stem for small images.

    Args:
        architecture: For example ``efficientnet_b0``; ``torchvision.models.list_models()``.
        num_classes: Width of the output ``(N, num_classes)``.
        image_size: Pixels a side; ViT and MaxViT are built for exactly this size.
        transform_input: Only for ``inception_v3`` and ``googlenet``: whether the network itself
            turns ImageNet's normalisation into the one its published weights were trained with.

    Raises:
        ThinetError: If there is no such network, or it does not run on images of this size.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    check_name("torchvision", architecture, names, LISTING)
    _try(architecture, num_classes, image_size)
    return _make(architecture, num_classes, image_size, transform_input)


@cache  # a run builds the same network several times
def _try(architecture: str, num_classes: int, image_size: int) -> None:
    weights: Any = torchvision.models.get_model_weights(architecture)
    usual_size = weights["DEFAULT"].transforms().crop_size[0]
    make = partial(_make, architecture, num_classes, image_size, True)
    check_runs(make, architecture, num_classes, image_size, usual_size)


def _make(architecture: str, num_classes: int, image_size: int, transform_input: bool) -> nn.Module:
    options: dict[str, object] = {"weights": None, "num_classes": num_classes}
    if architecture.startswith("vit_"):
        options["image_size"] = image_size
    elif architecture.startswith("maxvit_"):
        options["input_size"] = (image_size, image_size)
    elif architecture in ("inception_v3", "googlenet"):
        # Auxiliary heads are for training from scratch alone, and change the type of the output.
        options |= {"aux_logits": False, "transform_input": transform_input, "init_weights": True}
    make: Callable[..., nn.Module] = torchvision.models.get_model
    if architecture.startswith("regnet_"):
        with _NumbersWithValues():
            return make(architecture, **options)
    return make(architecture, **options)


class _NumbersWithValues(TorchFunctionMode):
    """RegNet computes its widths with small tensors, which need values on the meta device too."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, object] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.arange, torch.tensor):
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)

"""Networks: one file a family, one builder function a network, weights read in one place."""

from __future__ import annotations

import importlib
import inspect
import typing
from typing import Any

from torch import nn

from thinet.errors import ThinetError

SMALL_IMAGE = 64
"""Up to this image size (pixels) ImageNet networks get a stem or pool for small inputs."""

_PACKAGES = ("thinet.models", "torchvision.models")


def build(target: str, **arguments: Any) -> nn.Module:
    """Call the network builder that a saved network names.

    A ``spec.json`` may come from a stranger, so a name in it may only reach a public function (or
    module class) that is defined in the model packages and declares that it returns a network;
    whatever those files import themselves (``thinet.models.vgg.torch...``) is out of reach.

    Args:
        target: Dotted name below ``thinet.models`` or ``torchvision.models``.
        arguments: Keyword arguments of the builder, for example ``num_classes`` and ``image_size``.

    Returns:
        The randomly initialised network.

    Raises:
        ThinetError: If the name is not that of a builder, or the arguments do not fit it.
    """
    builder = _builder(target)
    try:
        inspect.signature(builder).bind(**arguments)
    except TypeError as error:
        raise ThinetError(
            f"{target} cannot be called with {sorted(arguments)} ({error}): "
            "save the network again with this version of thinet."
        ) from error
    network: nn.Module = builder(**arguments)
    return network


def _builder(target: str) -> Any:
    refusal = ThinetError(
        f"{target!r} does not name a network builder below thinet.models or torchvision.models: "
        "load only networks that thinet saved, such as thinet.models.vgg.vgg16."
    )
    module_name, _, name = target.rpartition(".")
    words = target.split(".")
    if not _is_below(module_name) or not all(w.isidentifier() and w[0] != "_" for w in words):
        raise refusal
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise refusal from error
    if not _is_below(getattr(found, "__module__", "")):
        raise refusal
    result = found if inspect.isclass(found) else _declared_result(found)
    if not (inspect.isclass(result) and issubclass(result, nn.Module)):
        raise refusal
    return found


def _is_below(module_name: str) -> bool:
    return any(module_name == p or module_name.startswith(p + ".") for p in _PACKAGES)


def _declared_result(found: Any) -> Any:
    return typing.get_type_hints(found).get("return") if inspect.isfunction(found) else None

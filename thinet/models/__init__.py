"""Networks: one file a family, one builder function a network, weights read in one place."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import torchvision
from torch import nn

from thinet.base.allowlist import PLACES, VARIABLE, find_target, is_below, own_packages
from thinet.base.errors import ThinetError
from thinet.base.records import JSON

SMALL_IMAGE = 64
"""Up to this image size (pixels) ImageNet networks get a stem or pool for small inputs."""

_LARGEST = 2**20  # of any number that a network is built with


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
    check_call(target, builder, arguments)
    try:
        network: nn.Module = builder(**arguments)
    except ThinetError:
        raise
    except Exception as error:  # constructors complain in every way there is
        reason = " ".join(str(error).split())[:200].rstrip(". ") or type(error).__name__
        raise ThinetError(
            f"{target} cannot be built with these arguments ({reason}): correct them."
        ) from error
    return network


def check_call(
    target: str, function: Callable[..., object], arguments: Mapping[str, JSON], *given: object
) -> None:
    """Refuse a call that a file asks for, if the arguments do not fit or may not be given.

    Args:
        target: Dotted name of the function, for the sentence.
        function: To be called.
        arguments: Keyword arguments, from the file.
        given: Arguments before those, which thinet gives itself.

    Raises:
        ThinetError: If the arguments do not fit; or by :func:`check_arguments`, which the user's
            own packages are spared.
    """
    try:
        inspect.signature(function).bind(*given, **arguments)
    except TypeError as error:
        raise ThinetError(
            f"{target} cannot be called with {sorted(arguments)} ({error}): "
            "save the network again with this version of thinet."
        ) from error
    if not is_below(target, own_packages()):
        check_arguments(target, arguments)


def check_arguments(target: str, arguments: Mapping[str, JSON]) -> None:
    """Refuse arguments that no network is built with, or that would fetch weights.

    Raises:
        ThinetError: Naming the first.
    """
    for key, value in arguments.items():
        if key.startswith(("weights", "pretrained")) and value not in (None, False):
            raise ThinetError(
                f"{key} of {target} is refused, because building a network fetches nothing: "
                "leave it out, and give weights with model.weights."
            )
        most = {"num_classes": _LARGEST, "image_size": 4096}.get(key)
        good = _is_plain(value) if most is None else type(value) is int and 1 <= value <= most
        if not good:
            raise ThinetError(
                f"{key[:60]}={repr(value)[:60]} of {target} is nothing a network is built with: "
                "give a number, a name or a short list of those."
            )


def _is_plain(value: Any, depth: int = 2) -> bool:
    if isinstance(value, (list, tuple)):
        return depth > 0 and len(value) <= 1024 and all(_is_plain(v, depth - 1) for v in value)
    if isinstance(value, str):
        return len(value) <= 200 and value.isprintable()
    return value is None or (isinstance(value, (int, float)) and abs(value) <= _LARGEST)


def _builder(target: str) -> Any:
    refusal = ThinetError(
        f"{target[:200]!r} does not name a network builder below thinet.models or "
        "torchvision.models: load only networks that thinet saved, such as "
        f"thinet.models.vgg.vgg16, or start with {VARIABLE}=<the package of your own networks>."
    )
    try:
        found = find_target(target, PLACES["model.build"], "target")
    except ThinetError as error:
        raise refusal from error
    if not makes_network(target, found):
        raise refusal
    # Of torchvision only what takes no weights by itself: its detectors fetch a backbone.
    if found.__module__.startswith("torchvision.") and not _classifies(found):
        raise refusal
    return found


def makes_network(target: str, found: Any) -> bool:
    """Whether a class is a network, or a function declares that it returns one.

    Raises:
        ThinetError: If it is the user's own and does not declare anything.
    """
    result = found if inspect.isclass(found) else _declared_result(found)
    if result is None and is_below(target, own_packages()):
        raise ThinetError(
            f"{target} does not say that it returns a network: write `-> nn.Module` behind its "
            "arguments, with nn imported at the top of the file."
        )
    return inspect.isclass(result) and issubclass(result, nn.Module)


def _classifies(found: Any) -> bool:
    names = torchvision.models.list_models(module=torchvision.models)
    return getattr(found, "__name__", "") in names


def _declared_result(found: Any) -> Any:
    if not inspect.isfunction(found):
        return None
    try:
        return typing.get_type_hints(found).get("return")
    except NameError:  # a name that is imported for type checkers alone
        return None

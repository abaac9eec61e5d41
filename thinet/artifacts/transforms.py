"""What was done to the modules of a saved network, such as binarisation, done again.

A ``spec.json`` may come from a stranger, so a name in it may only reach a public function that is
defined in the package of transforms and declares that it returns a network, as with builders.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from torch import nn

from thinet.artifacts.spec import Transform
from thinet.base.allowlist import TRANSFORMS, VARIABLE, find_target
from thinet.base.errors import ThinetError, first_line
from thinet.models import check_call, makes_network


def transformed(network: nn.Module, transforms: Sequence[Transform]) -> nn.Module:
    """Apply transforms in order; they may change ``network`` in place.

    Args:
        network: As wide as it was when they were applied first, on any device.
        transforms: Each is called as ``f(network, **arguments) -> network``.

    Raises:
        ThinetError: If a name is not that of a transform, or it does not take the network.
    """
    for transform in transforms:
        network = _applied(network, transform)
    return network


def _applied(network: nn.Module, transform: Transform) -> nn.Module:
    target, arguments = transform.target, transform.arguments
    function = _function(target)
    check_call(target, function, arguments, network)
    try:
        made = function(network, **arguments)
    except ThinetError:
        raise
    except Exception as error:  # whatever it does with the network
        raise ThinetError(
            f"{target} cannot be applied to this network ({first_line(error)[:200]}): correct its "
            "arguments, or save the network again."
        ) from error
    if not isinstance(made, nn.Module):
        raise ThinetError(
            f"{target} returned no network: let it return the one that it was given, changed."
        )
    return made


def _function(target: str) -> Callable[..., object]:
    refusal = ThinetError(
        f"{target[:200]!r} does not name a transform below {' or '.join(TRANSFORMS)}: load "
        f"only networks that thinet saved, or start with {VARIABLE}=<the package of your own code>."
    )
    try:
        found = find_target(target, TRANSFORMS, "target")
    except ThinetError as error:
        raise refusal from error
    if not inspect.isfunction(found) or not makes_network(target, found):
        raise refusal
    return found

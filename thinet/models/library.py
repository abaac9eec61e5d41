"""What the builders for the networks of other libraries share: names, and a trial without data."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from thinet.base.errors import ThinetError, first_line


def check_name(library: str, name: str, names: Collection[str], listing: str) -> None:
    """Refuse a network that a library does not have.

    Args:
        library: The library, which is also the option of the group ``model``.
        name: The network that was asked for.
        names: All networks of the library.
        listing: A shell command that prints them.

    Raises:
        ThinetError: If ``name`` is not in ``names``; with the closest ones.
    """
    if name in names:
        return
    near = get_close_matches(name, sorted(names), n=3, cutoff=0.6)
    hint = f"; did you mean {', '.join(near)}? Type" if near else ": type"
    raise ThinetError(
        f"{library} has no classification network called {name!r}{hint} model={library} "
        f"model.name=<name>, with one of the names that {listing} prints."
    )


def check_runs(
    make: Callable[[], nn.Module], name: str, num_classes: int, image_size: int, usual_size: int
) -> None:
    """Run two images through a network on the ``meta`` device: a fraction of a second, no memory.

    In training mode, which also shows the tuples that auxiliary heads return.

    Args:
        make: Builds the network; called on the ``meta`` device.
        name: What the user calls it.
        num_classes: Width that the output should have.
        image_size: Pixels a side.
        usual_size: The image size the network was designed or trained for.

    Raises:
        ThinetError: If it does not run on such images, or its output is not ``(2, num_classes)``.
    """
    try:
        # Some constructors draw numbers even here; the seed's own must not depend on the trial.
        with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
            output = make().train()(torch.empty(2, 3, image_size, image_size))
    except NotImplementedError:
        return  # an operation without a meta version says nothing about the network
    except Exception as error:  # networks complain about sizes in every way there is
        reason = textwrap.shorten(first_line(error), 120, placeholder=" ...")
        advice = (
            f"type dataset.image_size={usual_size}"
            if image_size != usual_size
            else "choose another network"
        )
        raise ThinetError(
            f"model.name={name} does not run on {image_size}-pixel images ({reason}): {advice}."
        ) from error
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != (2, num_classes):
        raise ThinetError(
            f"model.name={name} does not classify (for 2 images and {num_classes} classes its "
            f"output is {found} instead of {(2, num_classes)}): choose another network."
        )

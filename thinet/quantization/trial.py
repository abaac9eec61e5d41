"""A conversion tried on a copy: does the network run with it, and does it call what is new?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from torch import Tensor, nn

from thinet.base.errors import ThinetError, first_line
from thinet.quantization.replacing import replaced
from thinet.quantization.running import DoesNotRunError, on_one_image, run_alone
from thinet.quantization.settings import Quantizer


def missed(
    network: nn.Module,
    images: Tensor,
    binary: Sequence[str],
    norms: Sequence[str],
    removed: Sequence[str],
) -> set[str]:
    """The new modules that the network does not call: it holds the old ones in another place.

    Raises:
        ThinetError: If it does not run with the new ones.
    """
    expected = {*binary, *removed}

    def run(copy: nn.Module, image: Tensor) -> set[str]:
        replaced(copy, Quantizer(order=1), binary, norms, removed)
        called: set[str] = set()
        for path in expected:
            copy.get_submodule(path).register_forward_hook(
                lambda *_, path=path: called.add(path)  # type: ignore[misc]
            )
        run_alone(copy, image, nullcontext())
        return expected - called

    try:
        return on_one_image(network, images, run)
    except DoesNotRunError as error:
        raise ThinetError(
            f"the network runs, but not with {len(binary)} binary layers in it "
            f"({first_line(error.__cause__ or error)[:200]}): choose others with layers=[...]."
        ) from error

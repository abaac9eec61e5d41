"""Whether an exported network computes what the original does.

Where a network makes bits of its activations, rounding decides those that lie at a threshold, and
one bit that falls otherwise changes all that follows by far more than rounding. There each module
that does so is compared on the very input that the exported one had, and what lies between is
computed from the exported one's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from thinet.surgery import shared_copy

NEAR = 1e-4
"""ONNX Runtime sums in the order of the numbers: the mean of 200,000 is off by 1e-5."""
Run = Callable[[Tensor], Sequence[Tensor]]


@runtime_checkable
class Rounds(Protocol):
    """A module whose outputs jump where rounding decides a bit."""

    def rounding(self, given: Tensor, near: float) -> Tensor:
        """By how much outputs may differ for that reason; 0 where rounding decides nothing.

        Args:
            given: Its input.
            near: Which numbers are at a threshold, relative to those that they are made of.
        """


class Observed(nn.Module):
    """A network that also gives input and output of each call of modules that round.

    Args:
        network: Whose tensors it shares.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = shared_copy(network)
        self.train(network.training)  # of this module, too
        self._seen: list[Tensor] = []
        for module in _rounding(self.network):
            module.register_forward_hook(self._note)

    def _note(self, _: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        self._seen += [given[0], made]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits, and then input and output of each call in turn."""
        self._seen.clear()
        return (self.network(images), *self._seen)


def rounds(network: nn.Module) -> bool:
    """Whether rounding can decide bits within it."""
    return bool(_rounding(network))


@torch.no_grad()
def difference(network: nn.Module, run: Run, shape: tuple[int, ...], batch: int) -> float:
    """Largest difference of logits on random images, relative to the largest.

    Args:
        network: The original, in ``eval()`` mode.
        run: The exported one, whose first output counts.
        shape: ``(C, H, W)``.
        batch: Images.
    """
    images = random_images(batch, shape)
    return relative(run(images)[0], network(images))


@torch.no_grad()
def difference_by_steps(
    network: nn.Module, observed: Run, run: Run, shape: tuple[int, ...], batch: int
) -> float:
    """The same for a network that rounds: of the worst of its steps, beyond undecided bits.

    Args:
        network: The original, in ``eval()`` mode.
        observed: :class:`Observed` of it, exported.
        run: The network exported alone, which has to do the same arithmetic.
        shape: ``(C, H, W)``.
        batch: Images.
    """
    images = random_images(batch, shape)
    logits, *seen = observed(images)
    found = [relative(run(images)[0], logits)]
    left = list(zip(seen[::2], seen[1::2], strict=True))

    def taken(module: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> Tensor:
        theirs, made = left.pop(0)
        assert isinstance(module, Rounds)
        found.append(relative(theirs, given[0]))
        found.append(relative(made, module.forward(theirs), module.rounding(theirs, NEAR)))
        return made

    copy = shared_copy(network)
    for module in _rounding(copy):
        module.register_forward_hook(taken)
    found.append(relative(logits, copy(images)))
    return _worst(found)


def random_images(batch: int, shape: tuple[int, ...]) -> Tensor:
    """``(N, C, H, W)``, the same at every call."""
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))


def relative(made: Tensor, wanted: Tensor, slack: Tensor | float = 0.0) -> float:
    """Largest difference beyond ``slack``, relative to the largest wanted number."""
    if made.shape != wanted.shape:
        return float("inf")
    beyond = ((made - wanted).abs() - slack).max()
    return float(beyond.clamp_min(0) / wanted.abs().max().clamp_min(1e-12))


def _worst(found: Sequence[float]) -> float:
    return float(torch.tensor(found).max())  # unlike max(), NaN wins


def _rounding(network: nn.Module) -> list[nn.Module]:
    return [one for one in network.modules() if isinstance(one, Rounds)]

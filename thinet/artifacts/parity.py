"""Whether an exported network computes what the original does.

Where a network makes bits of its activations, rounding decides those that lie at a threshold, and
one bit that falls otherwise changes all that follows by far more than rounding. There each module
that does so is compared on the very input that the exported one had, and what lies between is
computed from the exported one's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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
    calls = list(zip(seen[::2], seen[1::2], strict=True))
    wanted, steps = step_by_step(network, images, calls, Rounds, NEAR)
    found = [relative(run(images)[0], logits), relative(logits, wanted)]
    return float(torch.tensor([*found, *(one.by for one in steps)]).max())  # unlike max(), NaN wins


@dataclass(frozen=True)
class Apart:
    """By how much something differs.

    Attributes:
        what: The beginning of a sentence: ``the input of conv1 differs``.
        by: Relative to the largest number.
    """

    what: str
    by: float


@torch.no_grad()
def step_by_step(
    network: nn.Module,
    images: Tensor,
    calls: Sequence[tuple[Tensor, Tensor]],
    kind: type[Any],
    near: float,
) -> tuple[Tensor, list[Apart]]:
    """What a network gives if some modules read and make what their counterparts did elsewhere.

    Args:
        network: In ``eval()`` mode; left as it was.
        images: ``(N, C, H, W)``.
        calls: What each call of such a module read and made, in order.
        kind: Which modules: :class:`Rounds` or alike.
        near: See :class:`Rounds`.

    Returns:
        The logits, and how far what is read is from what the module would have read here, and what
        is made from what the module makes of that, undecided bits apart.
    """
    copy, left, found = shared_copy(network), list(calls), list[Apart]()

    def before(path: str, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not left:
            return given
        theirs = left[0][0]
        found.append(Apart(f"the input of {path} differs", relative(theirs, given[0])))
        return (theirs, *given[1:]) if theirs.shape == given[0].shape else given

    def after(path: str, module: Any, given: tuple[Tensor, ...], wanted: Tensor) -> Tensor:
        if not left:
            found.append(Apart(f"the calls of {path} differ", float("inf")))
            return wanted
        made = left.pop(0)[1]
        by = relative(made, wanted, module.rounding(given[0], near))
        found.append(Apart(f"{path} differs", by))
        return made if made.shape == wanted.shape else wanted

    for path, module in copy.named_modules():
        if isinstance(module, kind):
            module.register_forward_pre_hook(lambda _, given, path=path: before(path, given))
            module.register_forward_hook(lambda *args, path=path: after(path, *args))
    logits: Tensor = copy(images)
    if left:
        found.append(Apart("the number of calls differs", float("inf")))
    return logits, found


def random_images(batch: int, shape: tuple[int, ...]) -> Tensor:
    """``(N, C, H, W)``, the same at every call."""
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))


def relative(made: Tensor, wanted: Tensor, slack: Tensor | float = 0.0) -> float:
    """Largest difference beyond ``slack``, relative to the largest wanted number."""
    if made.shape != wanted.shape:
        return float("inf")
    beyond = ((made - wanted).abs() - slack).max()
    return float(beyond.clamp_min(0) / wanted.abs().max().clamp_min(1e-12))


def _rounding(network: nn.Module) -> list[nn.Module]:
    return [one for one in network.modules() if isinstance(one, Rounds)]

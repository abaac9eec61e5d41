"""Where the output of a layer is added to another activation (the end of a residual block)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from thinet.surgery.calls import WeightCall
from thinet.surgery.operations import Kwargs


@dataclass(frozen=True)
class Join:
    """An addition of a layer's output, with at most a BatchNorm in between, to something else.

    Attributes:
        weight: Dotted name of the layer's weight.
        turn: Which use of that weight it is in this pass, from 0.
        scale: What the BatchNorm multiplies each channel with, ``(D,)``; None without one.
        own: What the layer puts in, after the BatchNorm.
        result: The sum.
    """

    weight: str
    turn: int
    scale: Tensor | None
    own: Tensor
    result: Tensor


class JoinFinder:
    """Follows outputs of layers up to the additions they meet, one executed operation at a time."""

    def __init__(self) -> None:
        self._source: Any = WeakTensorKeyDictionary()  # output -> weight, turn, scale

    def weight_call(self, call: WeightCall, turn: int, output: Tensor) -> None:
        """Note the output of a convolution or linear layer."""
        self._source[output] = (call.weight, turn, None)

    def norm(self, args: tuple[Any, ...], output: Tensor) -> None:
        """Note a BatchNorm; ``args`` are those of the ATen operation."""
        source = self._source.get(args[0])
        if source is None or source[2] is not None or not isinstance(args[4], Tensor):
            return
        epsilon = next(arg for arg in reversed(args) if isinstance(arg, float))
        scale = (args[4] + epsilon).rsqrt()
        if isinstance(args[1], Tensor):
            scale = scale * args[1]
        self._source[output] = (source[0], source[1], scale)

    def addition(self, args: tuple[Any, ...], before: Tensor | None, result: Tensor) -> list[Join]:
        """The joins that an addition is.

        Args:
            args: Of the ATen operation.
            before: A copy of its first operand, if the operation overwrites that.
            result: What it returned.
        """
        left, right = args[:2]
        alike = isinstance(right, Tensor) and left.shape == right.shape
        found = []
        for own in (left, right) if alike else ():
            source = self._source.get(own)
            if source is not None:
                value = before if before is not None and own is left else own
                weight, turn, scale = source
                found.append(Join(weight, turn, scale, value, result))
        self._source.pop(result, None)  # in place: it is no layer's output any more
        return found

    def other(self, operation: str, args: tuple[Any, ...]) -> None:
        """Note any other operation: one in place makes its operand something else."""
        if operation.endswith("_") and args and isinstance(args[0], Tensor):
            self._source.pop(args[0], None)

    def is_source(self, tensor: Any) -> bool:
        """Whether ``tensor`` is such an output."""
        return isinstance(tensor, Tensor) and tensor in self._source


def is_addition(operation: str, args: tuple[Any, ...], kwargs: Kwargs) -> bool:
    """Whether an ATen operation adds two tensors as they are."""
    return operation in ("add", "add_") and len(args) == 2 and kwargs.get("alpha", 1) == 1

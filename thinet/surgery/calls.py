"""Recognising, in a running network, the calls that use its parameters.

Parameters are recognised by identity and not by the module that holds them, so functional calls
and modules used twice are seen like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

Kind = Literal["conv", "linear", "norm"]


@dataclass(frozen=True)
class WeightCall:
    """One use of a weight by a convolution, a linear layer or a batch normalisation.

    Attributes:
        kind: What the operation is.
        weight: Dotted name of the weight (for ``norm`` without affine: of the running mean).
        extras: Names of the other tensors that have one entry a channel (bias, running mean ...).
        input: The operation's real input, as the network computed it.
        mean: Of a norm, the name of its running mean.
        stride: Of a convolution; so are ``padding``, ``dilation``, ``groups`` and ``transposed``.
    """

    kind: Kind
    weight: str
    extras: tuple[str, ...]
    input: Tensor
    mean: str | None = None
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    transposed: bool = False


class UnknownParameterError(Exception):
    """A convolution or linear operation whose weight is computed, not stored."""


class CallMatcher:
    """Tells which stored parameter an ATen call uses, if any.

    Args:
        network: The network whose parameters and buffers are to be recognised.
    """

    def __init__(self, network: nn.Module) -> None:
        tensors = [*network.named_parameters(), *network.named_buffers()]
        self._names = {id(tensor): name for name, tensor in tensors}
        # Transposed weights by id; the tensor is kept so that its id is not given out again.
        self._transposed: dict[int, tuple[str, Tensor]] = {}

    def name(self, tensor: Any) -> str | None:
        """The dotted name of a stored tensor, or None."""
        return self._names.get(id(tensor))

    def note(self, func: Any, args: tuple[Any, ...], result: Any) -> None:
        """Remember transposed weights: ``linear`` runs as ``addmm(bias, x, weight.t())``."""
        if func._schema.name in ("aten::t", "aten::transpose", "aten::permute"):
            name = self.name(args[0])
            if name is not None and result.dim() == 2:
                self._transposed[id(result)] = (name, result)

    def match(self, func: Any, args: tuple[Any, ...]) -> WeightCall | None:
        """The weight call that ``func(*args)`` is, or None if it is another operation.

        Raises:
            UnknownParameterError: If it is one, but its weight is not a stored parameter.
        """
        operation = func._schema.name.removeprefix("aten::")
        if operation == "convolution":
            return self._convolution(args)
        if operation in ("addmm", "mm"):
            return self._linear(operation, args)
        if "batch_norm" in operation and "backward" not in operation:
            return self._norm(args)
        return None

    def _convolution(self, args: tuple[Any, ...]) -> WeightCall:
        weight, bias = self.name(args[1]), self._optional(args[2])
        if weight is None:
            raise UnknownParameterError
        return WeightCall(
            kind="conv",
            weight=weight,
            extras=bias,
            input=args[0],
            stride=tuple(args[3]),
            padding=tuple(args[4]),
            dilation=tuple(args[5]),
            transposed=bool(args[6]),
            groups=int(args[8]),
        )

    def _linear(self, operation: str, args: tuple[Any, ...]) -> WeightCall | None:
        bias, rows, turned = args[:3] if operation == "addmm" else (None, *args[:2])
        found = self._transposed.get(id(turned))
        if found is None:
            return None  # a product of activations: for the caller an unknown operation
        return WeightCall(kind="linear", weight=found[0], extras=self._optional(bias), input=rows)

    def _norm(self, args: tuple[Any, ...]) -> WeightCall | None:
        names = [self.name(arg) for arg in args[1:5] if isinstance(arg, Tensor)]
        if not names:
            return WeightCall(kind="norm", weight="", extras=(), input=args[0])
        if None in names:
            raise UnknownParameterError
        known = [name for name in names if name is not None]
        return WeightCall(
            kind="norm",
            weight=known[0],
            extras=tuple(known[1:]),
            input=args[0],
            mean=self.name(args[3]) if isinstance(args[3], Tensor) else None,
        )

    def _optional(self, tensor: Any) -> tuple[str, ...]:
        if tensor is None:
            return ()
        name = self.name(tensor)
        if name is None:
            raise UnknownParameterError
        return (name,)
